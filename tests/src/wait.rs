//! Waiting for what takes a moment.

use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Waits until `condition` holds. Panics, naming `what`, if it does not within `deadline`.
#[track_caller]
pub fn until(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + deadline;
    while !condition() {
        assert!(Instant::now() < end, "waited {deadline:?} in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port on loopback that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
    listener.local_addr().expect("a listener has an address").port()
}
