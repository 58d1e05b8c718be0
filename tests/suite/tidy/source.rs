//! A source file as the tidy tests see it: code without comments, text and test modules.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// One file.
pub struct Source {
    /// Relative to the root of the repository.
    pub path: PathBuf,
    /// As it is.
    pub text: String,
    /// With comments and literals blanked, line for line; for files that are no tests, `cfg(test)` items too.
    pub code: String,
    /// It is compiled for tests only.
    pub is_test: bool,
}

impl Source {
    pub fn read(root: &Path, path: PathBuf) -> Source {
        let text = fs::read_to_string(root.join(&path)).expect("a source file is UTF-8");
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        Source { code: blank(&text), path, text, is_test }
    }

    /// Every name in a path that begins with this crate, with its line: those of a `use` as well as others.
    pub fn names_from(&self, name: &str) -> Vec<(usize, String)> {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        let mut found = Vec::new();
        let root = format!("{name}::");
        for (at, _) in self.code.match_indices(&root) {
            let before = &self.code[..at];
            if before.ends_with(|c| part(c) || c == ':') && !before.ends_with(" ::") {
                continue;
            }
            let path = &self.code[at + root.len()..];
            let imports = before.trim_end_matches("::").ends_with("use ");
            let end = path.find(|c| if imports { c == ';' } else { !part(c) && c != ':' });
            let mut line = before.lines().count();
            for text in path[..end.unwrap_or(path.len())].split_inclusive(|c| !part(c)) {
                let word = text.trim_end_matches(|c| !part(c));
                if !word.is_empty() {
                    found.push((line, word.to_owned()));
                }
                line += text.matches('\n').count();
            }
        }
        found
    }

    /// The files that this file's `mod x;` may mean.
    pub fn modules(&self) -> Vec<PathBuf> {
        self.declared().into_iter().flat_map(|(name, _, at)| self.places(&name, at)).collect()
    }

    /// `mod x;` with the name, whether it is for tests only, and a `#[path]` if it has one.
    fn declared(&self) -> Vec<(String, bool, Option<String>)> {
        let mut found = Vec::new();
        let lines: Vec<&str> = self.text.lines().collect();
        for (number, line) in self.code.lines().enumerate() {
            let line = line.trim();
            let Some(rest) = line.split("mod ").nth(1).filter(|_| line.ends_with(';')) else { continue };
            if !["mod ", "pub mod ", "pub(crate) mod ", "pub(super) mod "]
                .iter()
                .any(|start| line.starts_with(start))
                && !line.starts_with("#[cfg(test)]")
            {
                continue;
            }
            let name = rest.trim_end_matches(';').trim().to_owned();
            let above: Vec<&str> = lines[..number]
                .iter()
                .rev()
                .take_while(|line| line.trim().starts_with('#'))
                .copied()
                .collect();
            let test =
                line.contains("#[cfg(test)]") || above.iter().any(|line| line.contains("#[cfg(test)]"));
            let at = above.iter().find_map(|line| {
                let (_, rest) = line.split_once("#[path = \"")?;
                Some(rest.split('"').next()?.to_owned())
            });
            found.push((name, test, at));
        }
        found
    }

    fn places(&self, name: &str, at: Option<String>) -> Vec<PathBuf> {
        let folder = self.path.parent().expect("a file has a folder");
        if let Some(at) = at {
            return vec![folder.join(at)];
        }
        let stem = self.path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let inside = if ["mod", "lib", "main"].contains(&stem.as_str()) {
            folder.to_owned()
        } else {
            folder.join(&stem)
        };
        vec![
            inside.join(format!("{name}.rs")),
            inside.join(name).join("mod.rs"),
            folder.join(format!("{name}.rs")),
        ]
    }
}

/// Marks the files that are modules of tests, and blanks the test items of all others.
pub fn without_tests(mut all: Vec<Source>) -> Vec<Source> {
    let mut tests: BTreeSet<PathBuf> = BTreeSet::new();
    loop {
        let before = tests.len();
        for source in &all {
            let inherited = source.is_test || tests.contains(&source.path);
            for (name, test, at) in source.declared() {
                if test || inherited {
                    tests.extend(
                        source.places(&name, at).into_iter().filter(|place| *place != source.path).take(2),
                    );
                }
            }
        }
        if tests.len() == before {
            break;
        }
    }
    for source in &mut all {
        source.is_test |= tests.contains(&source.path);
        if !source.is_test {
            source.code = drop_test_items(&source.code);
        }
    }
    all
}

/// Whether `word` stands in `line` by itself.
pub fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

/// From the first `{` to its `}`; `code` has no literals in it.
pub fn block(code: &str) -> &str {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return &code[..=at],
            b'}' => depth -= 1,
            b';' if depth == 0 => return &code[..=at],
            _ => {}
        }
    }
    code
}

fn drop_test_items(code: &str) -> String {
    let mut out = code.to_owned();
    let mut from = 0;
    while let Some(found) = out[from..].find("#[cfg(test)]") {
        let start = from + found;
        let item = block(&out[start..]).len();
        let blanked: String =
            out[start..start + item].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        from = start + blanked.len();
        out.replace_range(start..start + item, &blanked);
    }
    out
}

/// The text with comments, strings and characters blanked. Lines stay where they are.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let blanks = |out: &mut String, part: &[char]| {
        out.extend(part.iter().map(|c| if *c == '\n' { '\n' } else { ' ' }))
    };
    while at < chars.len() {
        let rest = &chars[at..];
        let previous = at.checked_sub(1).map(|at| chars[at]);
        let length = match rest {
            ['/', '/', ..] => rest.iter().position(|c| *c == '\n').unwrap_or(rest.len()),
            ['/', '*', ..] => comment(rest),
            ['"', ..] => string(rest),
            ['r', '"' | '#', ..]
                if !previous.is_some_and(|c| c.is_alphanumeric() && c != 'b' || c == '_') =>
            {
                raw_string(rest)
            }
            ['\'', '\\', ..] => 3 + rest.iter().skip(3).position(|c| *c == '\'').unwrap_or(0),
            ['\'', _, '\'', ..] => 3,
            _ => 0,
        };
        if length == 0 {
            // What lies outside ASCII would move byte positions; outside literals nobody needs it.
            out.push(if rest[0].is_ascii() { rest[0] } else { ' ' });
            at += 1;
        } else {
            blanks(&mut out, &rest[..length]);
            at += length;
        }
    }
    out
}

fn comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at + 1 < rest.len() {
        match rest[at..at + 2] {
            ['/', '*'] => {
                depth += 1;
                at += 2;
            }
            ['*', '/'] => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    rest.len()
}

fn string(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> usize {
    let hashes = rest[1..].iter().take_while(|c| **c == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return 0;
    }
    let mut at = 2 + hashes;
    while at < rest.len() {
        if rest[at] == '"' && rest[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return at + 1 + hashes;
        }
        at += 1;
    }
    rest.len()
}

#[test]
fn what_is_no_code_is_blanked() {
    let text = "let a = \"unsafe // x\"; // unsafe\nlet b = r#\"un\"safe\"#; /* a /* b */ c */ let c = '\"'; let d: &'static str;\n";
    let code = blank(text);
    assert!(!code.contains("unsafe") && !code.contains("safe\""), "{code}");
    assert!(code.contains("let c =") && code.contains("let d: &'static str;"), "{code}");
    assert_eq!(code.lines().count(), 2);
}

#[test]
fn test_items_are_dropped() {
    let code = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { x.unwrap() } }\nfn c() {}\n";
    let kept = drop_test_items(code);
    assert!(kept.contains("fn a()") && kept.contains("fn c()") && !kept.contains("unwrap"), "{kept}");
    assert!(has_word("x.unsafe()", "unsafe") && !has_word("unsafe_op", "unsafe"));
}

#[test]
fn names_are_found_wherever_a_crate_is_named() {
    let code =
        "use std::{\n    fs::File,\n    io,\n};\nfn a() { std::thread::sleep(x.fs()); mystd::env(); }\n";
    let source = Source { path: PathBuf::new(), text: String::new(), code: code.to_owned(), is_test: false };
    let found = source.names_from("std");
    let found: Vec<(usize, &str)> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(found, [(2, "fs"), (2, "File"), (3, "io"), (5, "thread"), (5, "sleep")]);
}
