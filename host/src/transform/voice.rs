//! What a transform writes to its standard output and standard error, on its way to the log.
//!
//! A log is read by people at terminals and by programs: a line is cut and its control characters are escaped, so many
//! lines a call and bytes a minute and no more (L10). What is left out is counted and said.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most of one line that the log gets, in bytes after escaping.
const LINE_BYTES: usize = 1_024;
/// Lines of one call, for each way: a flood on one does not drown the panic on the other.
const CALL_LINES: u32 = 100;
/// What all instances of an artifact may write within a window.
const WINDOW_BYTES: usize = 1 << 20;
const WINDOW: Duration = Duration::from_secs(60);

/// The two ways out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Out,
    Err,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Out => "stdout",
            Way::Err => "stderr",
        }
    }
}

/// What is left of the window, for all instances of an artifact.
#[derive(Debug)]
pub(super) struct Allowance {
    since: Instant,
    bytes: usize,
    dropped: u64,
}

impl Allowance {
    pub(super) fn new() -> Self {
        Allowance { since: Instant::now(), bytes: 0, dropped: 0 }
    }

    /// Whether a line of so many bytes may go out, and how many did not since the last one that did.
    fn grants(&mut self, bytes: usize, now: Instant) -> Option<u64> {
        if now.duration_since(self.since) >= WINDOW {
            (self.since, self.bytes) = (now, 0);
        }
        if self.bytes + bytes > WINDOW_BYTES {
            self.dropped += 1;
            return None;
        }
        self.bytes += bytes;
        Some(std::mem::take(&mut self.dropped))
    }
}

/// The voice of one instance.
pub(super) struct Voice {
    artifact: Arc<str>,
    allowance: Arc<Mutex<Allowance>>,
    heard: bool,
    table: String,
    lines: [u32; 2],
    dropped: u64,
    /// The last line that was left out: of a flood, the end is what matters.
    last: Option<(Way, String)>,
    parts: [Vec<u8>; 2],
}

impl Voice {
    pub(super) fn new(artifact: Arc<str>, allowance: Arc<Mutex<Allowance>>) -> Self {
        let parts = [Vec::new(), Vec::new()];
        Voice { artifact, allowance, heard: true, table: String::new(), lines: [0; 2], dropped: 0, last: None, parts }
    }

    /// A call for a table begins. A retry is not heard: it says what was said already.
    pub(super) fn begin(&mut self, table: &str, heard: bool) {
        self.end();
        self.heard = heard;
        table.clone_into(&mut self.table);
    }

    /// Takes what was written. Bytes beyond a line's length are not kept.
    pub(super) fn write(&mut self, way: Way, bytes: &[u8]) {
        if !self.heard {
            return;
        }
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let part = &mut self.parts[way as usize];
            let line = piece.strip_suffix(b"\n");
            let room = (LINE_BYTES + 1).saturating_sub(part.len());
            part.extend(line.unwrap_or(piece).iter().take(room));
            if line.is_some() {
                self.line(way);
            }
        }
    }

    /// The call is over: what has no line's end yet goes out, and what was left out is said.
    pub(super) fn end(&mut self) {
        for way in [Way::Out, Way::Err] {
            if !self.parts[way as usize].is_empty() {
                self.line(way);
            }
        }
        if let Some((way, line)) = self.last.take() {
            let (artifact, table, dropped) = (&*self.artifact, &*self.table, self.dropped);
            tracing::warn!(artifact, table, dropped, "{}, the last of what was left out: {line}", way.name());
        }
        (self.lines, self.dropped) = ([0; 2], 0);
    }

    fn line(&mut self, way: Way) {
        let line = plain(&std::mem::take(&mut self.parts[way as usize]));
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        let granted =
            (self.lines[way as usize] < CALL_LINES).then(|| allowance.grants(line.len(), Instant::now())).flatten();
        drop(allowance);
        let Some(before) = granted else {
            self.dropped += 1;
            self.last = Some((way, line));
            return;
        };
        self.lines[way as usize] += 1;
        let (artifact, table) = (&*self.artifact, &*self.table);
        match before {
            0 => tracing::info!(artifact, table, "{}: {line}", way.name()),
            dropped => tracing::info!(artifact, table, dropped, "{}: {line}", way.name()),
        }
    }
}

impl Drop for Voice {
    // A trap ends an instance in the midst of a line, and that line is the one that tells why.
    fn drop(&mut self) {
        self.end();
    }
}

/// A line as it may stand in a log: no control characters, none that turn the direction of text, not too long.
fn plain(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len());
    for letter in text.chars() {
        let before = line.len();
        let turns = matches!(letter, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match letter.is_control() || turns {
            true => line.extend(letter.escape_default()),
            false => line.push(letter),
        }
        if line.len() > LINE_BYTES {
            line.truncate(before);
            line.push('…');
            break;
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_31_a_line_in_the_log_has_no_control_characters_and_an_end() {
        assert_eq!(plain(b"a\x1b[31mred\r\0\x07"), "a\\u{1b}[31mred\\r\\u{0}\\u{7}");
        assert_eq!(plain("\u{202e}txt.exe".as_bytes()), "\\u{202e}txt.exe");
        assert_eq!(plain(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        let long = plain(&[b'x'; 5_000]);
        assert!(long.len() <= LINE_BYTES + '…'.len_utf8() && long.ends_with('…'), "{} bytes", long.len());
    }

    #[test]
    fn row_31_a_flood_ends_with_the_window_and_is_counted() {
        let mut allowance = Allowance::new();
        let begin = allowance.since;
        let granted = (0..2_000).filter(|_| allowance.grants(1_024, begin).is_some()).count();
        assert_eq!(granted, WINDOW_BYTES / 1_024);
        assert_eq!(allowance.grants(1, begin + WINDOW), Some(2_000 - granted as u64));
        assert_eq!(allowance.grants(1, begin + WINDOW), Some(0));
    }

    #[test]
    fn row_31_an_instance_keeps_a_line_at_most() {
        let mut voice = Voice::new("x".into(), Arc::new(Mutex::new(Allowance::new())));
        voice.write(Way::Out, &vec![b'x'; 4 << 20]);
        assert!(voice.parts[0].len() <= LINE_BYTES + 1);
        voice.write(Way::Err, &b"line\n".repeat(1_000));
        assert_eq!((voice.lines, voice.dropped), ([0, CALL_LINES], 1_000 - u64::from(CALL_LINES)));
        assert_eq!(voice.last.as_ref().map(|(_, line)| line.as_str()), Some("line"));
        voice.begin("public.t", true);
        assert_eq!((voice.lines, voice.dropped, voice.parts[0].len()), ([0; 2], 0, 0));
    }
}
