//! The arrows of `ARCHITECTURE.md` as a test: which folder of `src/` may name which, where `pyo3` may
//! appear, and how long a file may get. It reads the sources as text, so it holds for every feature set.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// No source file, Rust or Python, is longer than this.
const MAX_LINES: usize = 800;

/// Each folder (or file) directly under `src/` and the ones it may name. `error` is a leaf that all may
/// name, and every layer may name itself.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("model", &[]),
    ("codec", &["model"]),
    ("routing", &["model"]),
    ("protocol", &["model"]),
    ("io", &["protocol"]),
    ("transport", &["io", "model"]),
    ("virt", &["codec", "io", "model", "routing", "transport"]),
    ("transports", &["codec", "io", "model", "protocol", "routing", "transport"]),
    ("client", &["codec", "io", "model", "routing", "transport", "virt"]),
    (
        "testkit",
        &[
            "client",
            "codec",
            "io",
            "model",
            "protocol",
            "routing",
            "transport",
            "transports",
            "virt",
        ],
    ),
    ("python", &["client", "codec", "io", "model", "routing", "transport", "virt"]),
];

/// Files that may name one folder more than their layer does, with the reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    (
        "src/transport/schemes.rs",
        "transports",
        "the scheme table is the one place that lists every transport",
    ),
    (
        "src/python/memory.rs",
        "transports",
        "clearing memory:// between tests is no ability of stores",
    ),
];

/// Crates that one folder alone may name: those that know the interpreter, and the codec of AMQP.
const OWNED_CRATES: &[(&str, &str)] =
    &[("pyo3", "python"), ("pythonize", "python"), ("amq_protocol", "protocol")];

/// Source text with comments, strings and char literals blanked out, so that only code is searched.
fn code_only(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    let blank = |out: &mut String, piece: &str| {
        out.extend(piece.chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
    };
    while i < bytes.len() {
        let rest = &text[i..];
        let end = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment_end(rest)
        } else if let Some(hashes) = raw_string_hashes(text, i) {
            let close = format!("\"{}", "#".repeat(hashes));
            let open = 1 + hashes + 1;
            rest[open..].find(&close).map_or(rest.len(), |at| open + at + close.len())
        } else if rest.starts_with('"') {
            quoted_end(rest)
        } else if rest.starts_with('\'') {
            char_literal_end(rest)
        } else {
            0
        };
        if end > 0 {
            blank(&mut out, &rest[..end]);
            i += end;
        } else {
            let c = rest.chars().next().expect("inside the text");
            out.push(c);
            i += c.len_utf8();
        }
    }
    out
}

fn block_comment_end(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The number of `#` of a raw string that starts at `at`, if one does.
fn raw_string_hashes(text: &str, at: usize) -> Option<usize> {
    let before = text[..at].chars().next_back();
    if before.is_some_and(|c| (c.is_alphanumeric() && c != 'b') || c == '_') {
        return None;
    }
    let rest = text[at..].strip_prefix('r')?;
    let hashes = rest.bytes().take_while(|b| *b == b'#').count();
    rest[hashes..].starts_with('"').then_some(hashes)
}

fn quoted_end(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// The end of a char literal, or 0 for a lifetime.
fn char_literal_end(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => {
            chars.next();
            rest[3.min(rest.len())..].find('\'').map_or(0, |at| at + 4)
        }
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 0,
        },
        None => 0,
    }
}

/// The paths below the crate root that `text`, the file at `module`, names: one list of segments each.
/// `module` is the module path, `["virt", "qos"]` for `src/virt/qos.rs`.
fn named_paths(module: &[String], text: &str) -> Vec<(usize, Vec<String>)> {
    let code = code_only(text);
    let mut found = Vec::new();
    for (line_index, start, word) in words(&code) {
        let before = code[..start].trim_end();
        if before.ends_with("::") {
            continue;
        }
        let base: Vec<String> = match word {
            "crate" => Vec::new(),
            "super" => module[..module.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        expand(&code[start + word.len()..], base, line_index, &mut found);
    }
    found
}

/// Every identifier with its line (from 1) and byte offset.
fn words(code: &str) -> Vec<(usize, usize, &str)> {
    let mut out = Vec::new();
    let mut line = 1;
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        if c.is_alphanumeric() || c == '_' {
            start.get_or_insert(at);
        } else if let Some(from) = start.take() {
            out.push((line, from, &code[from..at]));
        }
        if c == '\n' {
            line += 1;
        }
    }
    out
}

/// Follows `::a::b`, `::{a, b::c}` and further `super`s from `base`; keeps the first two segments.
fn expand(rest: &str, base: Vec<String>, line: usize, found: &mut Vec<(usize, Vec<String>)>) {
    let Some(rest) = rest.trim_start().strip_prefix("::") else {
        return push_path(base, line, found);
    };
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        for item in group_items(group) {
            let word: String = item
                .trim_start()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if !word.is_empty() {
                let from = item.find(&word).expect("just read") + word.len();
                descend(&item[from..], &word, base.clone(), line, found);
            }
        }
        return;
    }
    let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    if word.is_empty() {
        return push_path(base, line, found);
    }
    descend(&rest[word.len()..], &word, base, line, found);
}

fn descend(
    rest: &str,
    word: &str,
    mut base: Vec<String>,
    line: usize,
    found: &mut Vec<(usize, Vec<String>)>,
) {
    match word {
        "super" => {
            base.pop();
        }
        "self" => {}
        _ => base.push(word.to_owned()),
    }
    if base.len() >= 2 {
        return push_path(base, line, found);
    }
    expand(rest, base, line, found);
}

fn push_path(path: Vec<String>, line: usize, found: &mut Vec<(usize, Vec<String>)>) {
    if !path.is_empty() {
        found.push((line, path));
    }
}

/// The comma-separated items of a `use` group whose opening brace was just passed.
fn group_items(group: &str) -> Vec<&str> {
    let (mut depth, mut from) = (0_usize, 0);
    let mut items = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                items.push(&group[from..at]);
                return items;
            }
            ',' if depth == 0 => {
                items.push(&group[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    items.push(&group[from..]);
    items
}

/// The module path of a file, `src/virt/mod.rs` and `src/virt.rs` being `virt`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|p| p == "mod" || p == "lib") {
        parts.pop();
    }
    parts
}

/// What is wrong with one Rust file of the crate; `file` is relative to the repository root.
fn layering_violations(file: &str, text: &str) -> Vec<String> {
    let module = module_of(file);
    let mut wrong = Vec::new();
    let code = code_only(text);
    let layer = module.first().map(String::as_str);
    for (line, _, word) in words(&code) {
        let owner = OWNED_CRATES.iter().find(|(name, _)| *name == word).map(|(_, owner)| *owner);
        if let Some(owner) = owner.filter(|owner| layer != Some(*owner)) {
            wrong
                .push(format!("{file}:{line}: names `{word}`, which belongs to src/{owner} alone"));
        }
    }
    let Some(layer) = layer else {
        return wrong; // lib.rs declares the modules
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == layer) else {
        wrong.push(format!(
            "{file}: `{layer}` is not in the table of layers: add it to tests/layering.rs and ARCHITECTURE.md"
        ));
        return wrong;
    };
    for (line, path) in named_paths(&module, text) {
        let target = path[0].as_str();
        let known = LAYERS.iter().any(|(name, _)| *name == target);
        let excepted = EXCEPTIONS.iter().any(|(path, name, _)| *path == file && *name == target);
        if !known || excepted || target == "error" {
            continue;
        }
        if target != layer && !allowed.contains(&target) {
            wrong.push(format!("{file}:{line}: `{layer}` may not name `{target}`"));
        }
        if layer == "transports" && target == "transports" && module.len() >= 2 {
            let sibling = path.get(1).map_or("", String::as_str);
            if sibling != module[1] {
                wrong.push(format!(
                    "{file}:{line}: transport `{}` may not name its sibling `{sibling}`",
                    module[1]
                ));
            }
        }
    }
    wrong
}

/// What is wrong with the length of a file.
fn length_violation(file: &str, text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > MAX_LINES)
        .then(|| format!("{file}: {lines} lines, at most {MAX_LINES}: split it by concern"))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file with one of `extensions` below `folder`, as paths relative to the root.
fn files_below(folder: &str, extensions: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut todo = vec![root().join(folder)];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                todo.push(path);
            } else if path
                .extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| extensions.contains(&e))
            {
                let relative = path.strip_prefix(root()).unwrap_or(Path::new("")).to_string_lossy();
                found.insert(relative.into_owned());
            }
        }
    }
    found
}

fn read(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

#[test]
fn folders_name_only_what_they_may() {
    let files = files_below("src", &["rs"]);
    assert!(files.contains("src/lib.rs"), "the sources were not found");
    let wrong: Vec<String> =
        files.iter().flat_map(|file| layering_violations(file, &read(file))).collect();
    assert!(wrong.is_empty(), "{} arrows point the wrong way:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_file_is_too_long() {
    let mut wrong = Vec::new();
    for folder in ["src", "tests", "benches", "python", "examples"] {
        for file in files_below(folder, &["rs", "py", "pyi"]) {
            wrong.extend(length_violation(&file, &read(&file)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The checks above are worth something only if they catch what they forbid.
mod catches {
    use super::*;

    fn first(file: &str, text: &str) -> String {
        let wrong = layering_violations(file, text);
        assert_eq!(wrong.len(), 1, "{wrong:?}");
        wrong.into_iter().next().unwrap_or_default()
    }

    #[test]
    fn an_arrow_up() {
        assert_eq!(
            first("src/model/message.rs", "use std::fmt;\nuse crate::virt::Channel;\n"),
            "src/model/message.rs:2: `model` may not name `virt`"
        );
        first("src/virt/qos.rs", "fn f() { crate::client::connect() }");
        first("src/io/link.rs", "use crate::{error::Error, virt};");
        first("src/codec/json.rs", "use crate::{\n    model::{Value, Message},\n    io::Link,\n};");
        first("src/client/mod.rs", "use super::transports::redis;");
    }

    #[test]
    fn virt_in_a_transport_and_siblings() {
        first("src/transports/redis/store.rs", "use crate::virt::Channel;");
        first("src/transports/redis/store.rs", "use crate::transports::memory::Store;");
        first("src/transports/redis/store.rs", "use super::super::memory::Store;");
        first("src/transports/memory.rs", "use super::redis::Keys;");
    }

    #[test]
    fn the_interpreter_in_the_core() {
        assert_eq!(
            first("src/io/waiter.rs", "fn f(py: pyo3::Python<'_>) {}"),
            "src/io/waiter.rs:1: names `pyo3`, which belongs to src/python alone"
        );
        first("src/error.rs", "use pythonize::depythonize;");
    }

    #[test]
    fn a_codec_outside_of_the_protocols() {
        assert_eq!(
            first("src/transports/amqp/session.rs", "use amq_protocol::frame::AMQPFrame;"),
            "src/transports/amqp/session.rs:1: names `amq_protocol`, which belongs to src/protocol alone"
        );
    }

    #[test]
    fn a_folder_without_a_rule() {
        assert!(first("src/helpers/mod.rs", "").contains("not in the table"));
    }

    #[test]
    fn a_long_file() {
        assert!(length_violation("a.py", &"x\n".repeat(MAX_LINES + 1)).is_some());
        assert!(length_violation("a.py", &"x\n".repeat(MAX_LINES)).is_none());
    }

    #[test]
    fn and_nothing_else() {
        let fine = [
            ("src/virt/qos.rs", "use crate::model::Delivery;\nuse super::channel::Channel;"),
            (
                "src/io/link.rs",
                "//! See [`crate::virt`].\n/* crate::client */ const X: &str = \"crate::python\";",
            ),
            (
                "src/io/link.rs",
                "const A: char = '\"'; const B: &[u8] = br#\"crate::client\"#; fn f<'a>(x: &'a str) {}",
            ),
            ("src/io/link.rs", "const A: char = '\\''; const B: &str = \"a\\\"crate::client\";"),
            ("src/model/mod.rs", "use crate::error::{Error, Result};"),
            (
                "src/transports/redis/store.rs",
                "use super::keys; use crate::transports::redis::keys::Keys;",
            ),
            ("src/transport/schemes.rs", "use crate::transports::memory;"),
            ("src/python/mod.rs", "use pyo3::prelude::*; use crate::client;"),
            ("src/lib.rs", "pub mod transports;"),
        ];
        for (file, text) in fine {
            let wrong = layering_violations(file, text);

            assert!(wrong.is_empty(), "{file}: {wrong:?}");
        }
    }
}
