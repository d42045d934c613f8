//! What belongs to one store: the meter of its instances, and their voice.

use super::limits::Meter;
use super::voice::Voice;

/// The data of a store; it goes with the store.
pub(super) struct Room {
    pub(super) meter: Meter,
    pub(super) voice: Voice,
}
