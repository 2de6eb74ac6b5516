//! Windowed maximum and minimum.

/// The largest value of the current window and the `N - 1` windows before it. The caller decides
/// what a window is.
#[derive(Debug)]
pub struct MaxFilter<const N: usize> {
    values: [f64; N],
    pub value: f64,
}

impl<const N: usize> MaxFilter<N> {
    pub fn new() -> Self {
        Self { values: [0.0; N], value: 0.0 }
    }

    pub fn update(&mut self, value: f64) {
        if value > self.values[0] {
            self.values[0] = value;
            self.value = self.value.max(value);
        }
    }

    /// Begins a window, unless the current one has no measurement.
    pub fn advance(&mut self) {
        if self.values[0] == 0.0 {
            return;
        }
        self.values.rotate_right(1);
        self.values[0] = 0.0;
        self.value = self.values.iter().copied().fold(0.0, f64::max);
    }

    /// Replaces all measurements by this one.
    pub fn replace(&mut self, value: f64) {
        self.values = [0.0; N];
        self.values[0] = value;
        self.value = value;
    }
}

/// The smallest value of the last `window` seconds, or the newest if all are older.
#[derive(Debug)]
pub struct MinFilter {
    window: f64,
    /// Infinite while there is no measurement.
    pub value: f64,
    /// When the value was measured, or last confirmed.
    pub at: f64,
}

impl MinFilter {
    pub fn new(window: f64) -> Self {
        Self { window, value: f64::INFINITY, at: 0.0 }
    }

    pub fn is_expired(&self, now: f64) -> bool {
        self.value.is_infinite() || now > self.at + self.window
    }

    pub fn update(&mut self, value: f64, now: f64) {
        if value <= self.value || self.is_expired(now) {
            self.value = value;
            self.at = now;
        }
    }

    /// Keeps the value for another window if the measurement is within `tolerance` of it.
    pub fn confirm(&mut self, value: f64, now: f64, tolerance: f64) {
        if value <= self.value * (1.0 + tolerance) {
            self.at = now;
        }
    }
}
