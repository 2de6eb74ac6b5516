//! Data that Python has written, without a copy where nobody can change it.

use std::sync::Arc;

use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyMemoryView};

/// A range of a `bytes` object.
pub struct Part {
    object: PyBackedBytes,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.object[self.start..self.end]
    }
}

impl Part {
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// The same bytes in pieces of `size`, the last maybe smaller.
    pub fn pieces(self, size: usize) -> impl Iterator<Item = Piece> {
        let object = Arc::new(self.object);
        (self.start..self.end).step_by(size).map(move |start| Piece {
            object: object.clone(),
            start,
            end: self.end.min(start + size),
        })
    }
}

/// A range of an object that several pieces share.
pub struct Piece {
    object: Arc<PyBackedBytes>,
    start: usize,
    end: usize,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.object[self.start..self.end]
    }
}

impl From<PyBackedBytes> for Part {
    fn from(object: PyBackedBytes) -> Self {
        let end = object.len();
        Self { object, start: 0, end }
    }
}

/// The parts of a sequence of `bytes`, `bytearray` and `memoryview` objects. A `bytearray`, and what
/// is not a view of `bytes`, is copied: it may change before the peer has acknowledged it.
pub fn all(parts: &Bound<'_, PyAny>) -> PyResult<Vec<Part>> {
    parts.try_iter()?.map(|item| part(&item?)).collect()
}

fn part(item: &Bound<'_, PyAny>) -> PyResult<Part> {
    match item.cast::<PyMemoryView>() {
        Err(_) => Ok(item.extract::<PyBackedBytes>()?.into()),
        Ok(view) => match view_of_bytes(view) {
            Some(part) => Ok(part),
            None => {
                let copy = view.call_method0("tobytes")?;
                Ok(copy.extract::<PyBackedBytes>()?.into())
            }
        },
    }
}

/// The range of the `bytes` object that a view shows; None if it shows something else.
fn view_of_bytes(view: &Bound<'_, PyMemoryView>) -> Option<Part> {
    let object = view.getattr("obj").ok()?.cast_into::<PyBytes>().ok()?;
    let buffer = PyBuffer::<u8>::get(view).ok()?;
    if !buffer.is_c_contiguous() {
        return None;
    }
    let first = object.as_bytes().as_ptr() as usize;
    let start = (buffer.buf_ptr() as usize).checked_sub(first)?;
    let end = start + buffer.len_bytes();
    let object = PyBackedBytes::from(object);
    (end <= object.len()).then(|| Part { object, start, end })
}
