//! Delivery-rate samples (draft-ietf-ccwg-bbr, 4.1).

/// The state of the connection when a burst left.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SendState {
    pub sent_at: f64,
    pub delivered: f64,
    pub delivered_at: f64,
    /// When the first packet of the flight left with which this one is measured.
    pub first_sent_at: f64,
    pub lost: f64,
    /// Bytes in flight, those of the burst included (`tx_in_flight`).
    pub in_flight: f64,
    pub is_app_limited: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct RateSample {
    /// Acknowledged since the packet left.
    pub delivered: f64,
    /// Lost since the packet left.
    pub lost: f64,
    /// 0 if the interval is too short to tell.
    pub rate: f64,
    pub prior_delivered: f64,
    pub in_flight: f64,
    pub is_app_limited: bool,
}

/// The counters of one connection.
#[derive(Debug, Default)]
pub struct DeliveryRate {
    pub delivered: f64,
    pub lost: f64,
    delivered_at: f64,
    first_sent_at: f64,
    /// While `delivered` is not above this, samples are application-limited; 0 is never.
    app_limited_until: f64,
}

impl DeliveryRate {
    pub fn is_app_limited(&self) -> bool {
        self.app_limited_until > 0.0
    }

    pub fn on_sent(&mut self, now: f64, in_flight: f64, size: f64) -> SendState {
        if in_flight <= 0.0 {
            self.first_sent_at = now;
            self.delivered_at = now;
        }
        SendState {
            sent_at: now,
            delivered: self.delivered,
            delivered_at: self.delivered_at,
            first_sent_at: self.first_sent_at,
            lost: self.lost,
            in_flight: in_flight + size,
            is_app_limited: self.is_app_limited(),
        }
    }

    /// There is nothing to send, though more could be in flight (4.1.2.4).
    pub fn on_app_limited(&mut self, in_flight: f64) {
        self.app_limited_until = (self.delivered + in_flight).max(1.0);
    }

    /// Bytes that were declared lost have arrived.
    pub fn on_spurious_loss(&mut self, size: f64) {
        self.lost = (self.lost - size).max(0.0);
    }

    /// The rate is 0 if the interval is shorter than `min_interval` (the minimum round trip).
    pub fn on_acknowledged(
        &mut self,
        now: f64,
        size: f64,
        newest: Option<&SendState>,
        min_interval: f64,
    ) -> Option<RateSample> {
        self.delivered += size;
        if self.is_app_limited() && self.delivered > self.app_limited_until {
            self.app_limited_until = 0.0;
        }
        let newest = newest?;
        self.delivered_at = now;
        let send_elapsed = newest.sent_at - newest.first_sent_at;
        let ack_elapsed = now - newest.delivered_at;
        self.first_sent_at = self.first_sent_at.max(newest.sent_at);
        let interval = send_elapsed.max(ack_elapsed);
        let delivered = self.delivered - newest.delivered;
        let is_valid = interval > 0.0 && interval >= min_interval;
        Some(RateSample {
            delivered,
            lost: self.lost - newest.lost,
            rate: if is_valid { delivered / interval } else { 0.0 },
            prior_delivered: newest.delivered,
            in_flight: newest.in_flight,
            is_app_limited: newest.is_app_limited,
        })
    }
}
