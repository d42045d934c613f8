//! Transforms for tests: built once by the command that ships, as components in the target folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::Stage;
use crate::command::binary;

/// The example shop's component.
pub fn shop_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("../transforms/shop"))
}

/// The example shop's step with two faults: it splits names at their last blank, and makes ten times the cents.
pub fn faulty_shop_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../transforms/shop");
        let folder = target().join("faulty_shop");
        std::fs::create_dir_all(folder.join("src")).expect("a folder can be made");
        let changed = |file: &str, changes: &[(&str, &str)]| {
            let mut text = std::fs::read_to_string(shop.join(file)).expect("the shop is in the repository");
            for (old, new) in changes {
                assert!(text.contains(old), "{file} has no {old} any more");
                text = text.replace(old, new);
            }
            std::fs::write(folder.join(file), text).expect("a file can be written");
        };
        let sdk = shop.join("../sdk").canonicalize().expect("the SDK is in the repository");
        let sdk = format!("path = {:?}", sdk.to_string_lossy());
        let alone = [("name = \"shop\"", "name = \"faulty-shop\""), ("path = \"../sdk\"", sdk.as_str())];
        changed("Cargo.toml", &[alone[0], alone[1], ("[lib]", "[workspace]\n\n[lib]")]);
        let faults = [("name.split_once(' ')", "name.rsplit_once(' ')"), ("{fraction:0<2}", "{fraction:0<3}")];
        changed("src/convert.rs", &faults);
        changed("src/lib.rs", &[]);
        changed("src/tests.rs", &[]);
        changed("Cargo.lock", &[("name = \"shop\"", "name = \"faulty-shop\"")]);
        build_in(&folder)
    })
}

/// The component of the example shop's second step.
pub fn shop_2_3_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("../transforms/shop_2_3"))
}

/// The component of the cart example.
pub fn cart_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("../transforms/cart"))
}

/// The component of `examples/operators`.
pub fn operators_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("../examples/operators"))
}

/// The component of `tests/guests-rules` with another manifest.
pub fn component_with_manifest(stage: &Stage, manifest: &str) -> PathBuf {
    let mut bytes = std::fs::read(rules_component()).expect("the component is there");
    let own = include_str!("../guests-rules/src/rules.json");
    let start = bytes.windows(own.len()).position(|window| window == own.as_bytes()).expect("the manifest is in it");
    let text = format!("{manifest:<width$}", width = own.len());
    assert_eq!(text.len(), own.len(), "there is no room for this manifest");
    bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
    stage.file("other.wasm", bytes)
}

/// The component of `tests/guests-rules`.
pub fn rules_component() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| build("guests-rules"))
}

/// A revision of `tests/guests-swap`: four digits with which it signs, `ok` or how it misbehaves, and its manifest if it
/// is to have another one.
pub fn swap_component(stage: &Stage, number: u32, manner: &str, manifest: Option<&str>) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let mut bytes = std::fs::read(BUILT.get_or_init(|| build("guests-swap"))).expect("the component is there");
    let mut put = |old: &str, new: &str| {
        let start = bytes.windows(old.len()).position(|window| window == old.as_bytes()).expect("it is in it");
        let text = format!("{new:<width$}", width = old.len());
        assert_eq!(text.len(), old.len(), "there is no room for this");
        bytes[start..start + text.len()].copy_from_slice(text.as_bytes());
    };
    put("revision 0000 ok", &format!("revision {number:04} {manner}"));
    if let Some(manifest) = manifest {
        put(include_str!("../guests-swap/src/rules.json").trim_end(), manifest);
    }
    stage.file(&format!("revision_{number}_{manner}.wasm"), bytes)
}

/// The example shop's two schemas, blue's first.
pub fn shop_schemas() -> [String; 2] {
    schemas(["../examples/shop/v1.sql", "../examples/shop/v2.sql"])
}

/// The schema of the example shop's third version.
pub fn shop_v3_schema() -> String {
    let [v3, _] = schemas(["../examples/shop/v3.sql", "../examples/shop/v2.sql"]);
    v3
}

/// Puts whole old rows into the log, for all tables that are there.
pub const FULL_IDENTITY: &str = "DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' LOOP
        EXECUTE format('ALTER TABLE %I REPLICA IDENTITY FULL', name);
    END LOOP; END $$;";

/// The operators' two schemas, blue's first.
pub fn operators_schemas() -> [String; 2] {
    const OPERATORS: [&str; 13] = [
        "create_table",
        "drop_table",
        "rename_table",
        "add_column",
        "drop_column",
        "rename_column",
        "decompose_by_primary_key",
        "join_by_primary_key",
        "decompose_by_foreign_key",
        "join_by_foreign_key",
        "decompose_by_condition",
        "horizontal_split",
        "merge",
    ];
    let mut whole = [String::new(), String::new()];
    for operator in OPERATORS {
        let folder = format!("../examples/operators/src/{operator}");
        let parts = schemas([&format!("{folder}/v1.sql"), &format!("{folder}/v2.sql")]);
        whole.iter_mut().zip(parts).for_each(|(whole, part)| *whole += &part);
    }
    whole
}

/// The cart example's two schemas, blue's first.
pub fn cart_schemas() -> [String; 2] {
    schemas(["../examples/cart/v1.sql", "../examples/cart/v2.sql"])
}

/// The tables that the rules of `tests/guests-rules` read and write, blue's first.
pub fn rules_schemas() -> [String; 2] {
    schemas(["guests-rules/blue.sql", "guests-rules/green.sql"])
}

fn schemas(files: [&str; 2]) -> [String; 2] {
    files.map(|file| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        std::fs::read_to_string(path).expect("the schemas are in the repository")
    })
}

impl Stage {
    /// The line of `[migration]` that names a component, or none.
    pub fn transforms(component: Option<&Path>) -> String {
        match component {
            Some(path) => format!("transforms = [{:?}]\n", path.to_string_lossy()),
            None => "transforms = []\n".to_owned(),
        }
    }

    /// The same settings with each rule of the named component on the other side: what it did forward, it does backward.
    pub(crate) fn mirrored(&self, migration: &str) -> String {
        let Some((before, rest)) = migration.split_once("transforms = [\"") else { return migration.to_owned() };
        let (path, after) = rest.split_once('"').expect("a path ends");
        let mut bytes = std::fs::read(path).expect("the component is there");
        mirror(&mut bytes);
        let name = path.rsplit('/').next().unwrap_or_default();
        let file = self.file(&format!("mirrored.{name}"), bytes);
        format!("{before}transforms = [{:?}{after}", file.to_string_lossy())
    }
}

/// Exchanges the sides in the manifest of a component that holds it as a constant.
fn mirror(bytes: &mut [u8]) {
    let starts_here =
        |window: &[u8]| window.starts_with(b"{") && window[1..].trim_ascii_start().starts_with(b"\"falkirk\"");
    let start = bytes.windows(40).position(starts_here).expect("the manifest is a constant of the component");
    let mut read = serde_json::Deserializer::from_slice(&bytes[start..]).into_iter::<serde_json::Value>();
    let mut manifest = read.next().expect("the manifest is there").expect("the manifest is JSON");
    let length = read.byte_offset();
    swap(&mut manifest, "forward", "backward");
    // Asked for by an index, a key that is not there would be made.
    let maps = manifest.get_mut("maps").and_then(serde_json::Value::as_object_mut);
    for map in maps.into_iter().flat_map(|maps| maps.values_mut()) {
        swap(map, "blue", "green");
        match map["creates"].as_str() {
            Some("blue") => map["creates"] = "green".into(),
            Some("green") => map["creates"] = "blue".into(),
            _ => {}
        }
    }
    let text = manifest.to_string();
    let text = format!("{text:<length$}");
    assert_eq!(text.len(), length, "there is no room for this manifest");
    bytes[start..start + length].copy_from_slice(text.as_bytes());
}

fn swap(json: &mut serde_json::Value, one: &str, other: &str) {
    let Some(keys) = json.as_object_mut() else { return };
    let values = [keys.remove(one), keys.remove(other)];
    for (key, value) in [other, one].into_iter().zip(values) {
        keys.extend(value.map(|value| (key.to_owned(), value)));
    }
}

fn build(package: &str) -> PathBuf {
    build_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(package))
}

fn target() -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its program");
    test.ancestors().nth(3).expect("a test lies three folders below the target folder").to_owned()
}

fn build_in(folder: &Path) -> PathBuf {
    let target = target();
    let name = folder.file_name().expect("a package has a name").to_string_lossy().into_owned();
    // The command writes the file whole or not at all, so test processes may share it.
    let out = target.join(format!("{name}.wasm"));
    let mut command = Command::new(binary());
    command.arg("build").arg(folder).arg("-o").arg(&out).env("CARGO_TARGET_DIR", target);
    // What cargo tells this test of its own package would look to build scripts like a change.
    let told = |name: &str| ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| name.starts_with(start));
    for (name, _) in std::env::vars().filter(|(name, _)| told(name)) {
        command.env_remove(name);
    }
    let output = command.stdin(Stdio::null()).output().expect("the command can be started");
    assert!(output.status.success(), "{name} does not build\n{}", String::from_utf8_lossy(&output.stderr));
    out
}
