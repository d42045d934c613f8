//! A hand-written encoder against the decoder, and frames that do not add up.

use proptest::prelude::*;

use super::*;

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

fn begin(lsn: u64) -> Vec<u8> {
    [b"B".as_slice(), &lsn.to_be_bytes(), &7i64.to_be_bytes(), &9u32.to_be_bytes()].concat()
}

fn commit(commit: u64, end: u64) -> Vec<u8> {
    [b"C\0".as_slice(), &commit.to_be_bytes(), &end.to_be_bytes(), &7i64.to_be_bytes()].concat()
}

fn relation(oid: u32, columns: &[(&str, bool)]) -> Vec<u8> {
    let mut out = [b"R".as_slice(), &oid.to_be_bytes()].concat();
    text(&mut out, "public");
    text(&mut out, "t");
    out.push(b'd');
    out.extend_from_slice(&(columns.len() as u16).to_be_bytes());
    for (name, key) in columns {
        out.push(u8::from(*key));
        text(&mut out, name);
        out.extend_from_slice(&25u32.to_be_bytes());
        out.extend_from_slice(&(-1i32).to_be_bytes());
    }
    out
}

fn row(cells: &[Cellish]) -> Vec<u8> {
    let mut out = (cells.len() as u16).to_be_bytes().to_vec();
    for cell in cells {
        match cell {
            Cellish::Null => out.push(b'n'),
            Cellish::Unchanged => out.push(b'u'),
            Cellish::Text(value) => {
                out.push(b't');
                out.extend_from_slice(&(value.len() as u32).to_be_bytes());
                out.extend_from_slice(value);
            }
        }
    }
    out
}

#[derive(Clone, Debug)]
enum Cellish {
    Null,
    Unchanged,
    Text(Vec<u8>),
}

fn words(values: &[&str]) -> Vec<Cellish> {
    values.iter().map(|value| Cellish::Text(value.as_bytes().to_vec())).collect()
}

fn ready() -> Decoder {
    let mut decoder = Decoder::new();
    decoder.decode(begin(5).into()).unwrap();
    decoder.decode(relation(1, &[("id", true), ("a", false), ("b", false)]).into()).unwrap();
    decoder
}

fn update(kind: Option<(u8, &[Cellish])>, new: &[Cellish]) -> Vec<u8> {
    let mut out = [b"U".as_slice(), &1u32.to_be_bytes()].concat();
    if let Some((kind, old)) = kind {
        out.push(kind);
        out.extend(row(old));
    }
    out.push(b'N');
    out.extend(row(new));
    out
}

fn decoded_update(frame: Vec<u8>) -> (Before, Image) {
    match ready().decode(frame.into()).unwrap() {
        Some(Message::Change(Change { event: Event::Update { before, after }, .. })) => (before, after),
        other => panic!("not an update: {other:?}"),
    }
}

#[test]
fn pitfall_44_a_commit_has_two_positions_and_both_are_kept() {
    let mut decoder = ready();
    let Some(Message::Commit(commit)) = decoder.decode(commit(5, 8).into()).unwrap() else { panic!("not a commit") };
    assert_eq!((commit.commit_lsn, commit.end_lsn), (Lsn(5), Lsn(8)));
}

#[test]
fn pitfall_10_an_untouched_value_is_taken_from_the_full_old_row() {
    let new = [Cellish::Text(b"1".to_vec()), Cellish::Unchanged, Cellish::Null];
    let (_, after) = decoded_update(update(Some((b'O', &words(&["1", "long", "x"]))), &new));
    assert_eq!((after.text(1), after.text(2)), (Some(b"long".as_slice()), None));
}

#[test]
fn pitfalls_7_and_9_an_old_key_gives_the_key_and_nothing_else() {
    let old = [Cellish::Text(b"key".to_vec()), Cellish::Null, Cellish::Null];
    let new = [Cellish::Unchanged, Cellish::Unchanged, Cellish::Null];
    let (before, after) = decoded_update(update(Some((b'K', &old)), &new));
    assert!(matches!(before, Before::Key(_)));
    assert_eq!(after.text(0), Some(b"key".as_slice()));
    assert_eq!(after.cell(1), Cell::Unchanged, "the null of a key image is not a value");
}

#[test]
fn rows_36_to_38_what_does_not_add_up_is_refused() {
    let insert = |cells: &[Cellish]| [[b"I".as_slice(), &1u32.to_be_bytes(), b"N"].concat(), row(cells)].concat();
    let refused = |decoder: &mut Decoder, frame: Vec<u8>| {
        assert_eq!(decoder.decode(frame.into()).unwrap_err().code(), "PROTOCOL_ERROR");
    };
    refused(&mut ready(), insert(&words(&["1", "2"])));
    refused(&mut ready(), insert(&words(&["1", "2", "3", "4"])));
    refused(&mut Decoder::new(), insert(&words(&["1", "2", "3"])));
    refused(&mut Decoder::new(), commit(1, 2));
    refused(&mut ready(), begin(6));
    refused(&mut ready(), Vec::new());
    refused(&mut ready(), b"?".to_vec());
    refused(&mut ready(), [insert(&words(&["1", "2", "3"])), vec![0]].concat());
}

proptest! {
    #[test]
    fn row_35_no_frame_makes_the_decoder_panic(frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..6)) {
        let mut decoder = ready();
        for frame in frames {
            let _ = decoder.decode(frame.into());
        }
    }

    #[test]
    fn row_35_no_cut_or_flipped_frame_makes_the_decoder_panic(cut in 0usize..60, at in 0usize..60, flip in any::<u8>()) {
        let new = [Cellish::Text(b"1".to_vec()), Cellish::Unchanged, Cellish::Text(vec![b'x'; 20])];
        let mut frame = update(Some((b'O', &words(&["1", "long", "x"]))), &new);
        let length = frame.len();
        frame[at % length] ^= flip;
        frame.truncate(length - cut % length);
        let _ = ready().decode(frame.into());
    }

    #[test]
    fn values_come_out_as_they_went_in(values in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..40)), 3)) {
        let cells: Vec<Cellish> = values.iter().map(|value| value.clone().map_or(Cellish::Null, Cellish::Text)).collect();
        let (_, after) = decoded_update(update(None, &cells));
        for (at, value) in values.iter().enumerate() {
            prop_assert_eq!(after.text(at), value.as_deref());
        }
    }
}
