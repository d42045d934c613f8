//! Guests in text form, without any SDK: for what no compiler of Rust would let a guest do.

const INTERFACE: &str = include_str!("../../../wit/migration.wit");

/// A well-behaved guest but for `$forward`. `$values` is where two values lie, an integer and a text.
const PRELUDE: &str = r#"
(global $values i32 (i32.const 0x600))
(func $text (param $from i32) (param $length i32)
  (i32.store (i32.add (global.get $values) (i32.const 24)) (local.get $from))
  (i32.store (i32.add (global.get $values) (i32.const 28)) (local.get $length)))
(func $output (param $at i32) (param $output i32) (param $values i32) (param $count i32)
  (i32.store (local.get $at) (local.get $output))
  (i32.store (i32.add (local.get $at) (i32.const 4)) (local.get $values))
  (i32.store (i32.add (local.get $at) (i32.const 8)) (local.get $count)))
;; The same answer for every row: so many outputs from `$outputs` on.
(func $results (param $count i32) (param $outputs i32) (param $many i32) (result i32) (local $row i32) (local $at i32)
  (i32.store (i32.const 0x400) (i32.const 0x1000))
  (i32.store (i32.const 0x404) (local.get $count))
  (block $done (loop $more
    (br_if $done (i32.ge_s (local.get $row) (local.get $count)))
    (local.set $at (i32.add (i32.const 0x1000) (i32.mul (local.get $row) (i32.const 28))))
    (i32.store8 (local.get $at) (i32.const 0))
    (i32.store (i32.add (local.get $at) (i32.const 4)) (local.get $outputs))
    (i32.store (i32.add (local.get $at) (i32.const 8)) (local.get $many))
    (local.set $row (i32.add (local.get $row) (i32.const 1)))
    (br $more)))
  (i32.const 0x400))
(func $answer (param $count i32) (param $output i32) (param $values i32) (param $many i32) (result i32)
  (call $output (i32.const 0x500) (local.get $output) (local.get $values) (local.get $many))
  (call $results (local.get $count) (i32.const 0x500) (i32.const 1)))
(data (i32.const 0x700) "ok")
(data (i32.const 0x600) "\03\00\00\00\00\00\00\00\01\00\00\00\00\00\00\00\05\00\00\00\00\00\00\00\00\07\00\00\02\00\00\00")
"#;

const REALLOC: &str = r#"
(global $heap (mut i32) (i32.const 0x120000))
(func $realloc (param $old i32) (param $had i32) (param $align i32) (param $size i32) (result i32)
  (global.set $heap (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
  (global.get $heap)
  (global.set $heap (i32.add (global.get $heap) (local.get $size))))
"#;

const DESCRIBE: &str = r#"
(func $describe (result i32)
  (i32.store (i32.const 0x400) (i32.const 0x10)) (i32.store (i32.const 0x404) (global.get $manifest)) (i32.const 0x400))
"#;

/// The component of a guest: a module's `$forward`, and whatever else of it is not to be as everybody's.
pub fn component(guest: &str, manifest: &str) -> Vec<u8> {
    let unless = |name: &str, text: &'static str| if guest.contains(name) { "" } else { text };
    let (realloc, describe) = (unless("$realloc", REALLOC), unless("$describe", DESCRIBE));
    let (data, length) = (manifest.replace('\n', " ").replace('"', "\\\""), manifest.len());
    let transform = "falkirk:migration/transform@0.1.0";
    let text = format!(
        "(module (memory (export \"memory\") 24) (global $manifest i32 (i32.const {length}))
        (data (i32.const 0x10) \"{data}\") {PRELUDE} {realloc} {describe} {guest}
        (export \"cabi_realloc\" (func $realloc))
        (export \"{transform}#describe\" (func $describe))
        (export \"{transform}#forward\" (func $forward))
        (func (export \"{transform}#backward\") (param i32 i32 i32 i32) (result i32) unreachable))"
    );
    let mut bytes = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}: {guest}"));
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("migration.wit", INTERFACE).expect("the interface");
    let world = resolve.select_world(&[package], None).expect("its world");
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, encoding, false).expect("it embeds");
    falkirk::build::encode(&bytes).unwrap_or_else(|problem| panic!("{problem}: {guest}"))
}
