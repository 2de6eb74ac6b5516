//! What the fuzz targets share: two ends of a connection, called through the engine's Python classes,
//! and the packets that only a peer can make.

pub mod frames;
pub mod pair;
pub mod seal;
