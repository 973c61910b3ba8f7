//! Changes of lines in configuration files, which keep everything else as it is. Pure.

use crate::machine::fix::Edit;

/// The text after changes. Changes that are there already change nothing.
pub fn edited(text: &str, edits: &[Edit]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for e in edits {
        match e {
            Edit::Set { section, key, value } => set(&mut lines, section.as_deref(), key, value),
            Edit::Remove { line } => lines.retain(|l| normal(l) != normal(line)),
            Edit::Replace { from, to } => lines.iter_mut().for_each(|l| *l = l.replace(from.as_str(), to)),
            Edit::Append { text } => {
                let there = lines.join("\n").contains(text.as_str());
                if !there {
                    lines.extend(text.lines().map(str::to_owned));
                }
            }
        }
    }
    lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect()
}

/// A line without quotes and with single spaces: `GATEWAY="10.0.0.1"` is `GATEWAY=10.0.0.1`.
fn normal(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ").replace(['"', '\''], "")
}

fn header(line: &str) -> Option<&str> {
    line.trim().strip_prefix('[')?.strip_suffix(']')
}

fn set(lines: &mut Vec<String>, section: Option<&str>, key: &str, value: &str) {
    let wanted = format!("{key}={value}");
    let (start, end) = match section {
        None => (0, lines.len()),
        Some(s) => {
            let Some(at) = lines.iter().position(|l| header(l) == Some(s)) else {
                lines.extend([format!("[{s}]"), wanted]);
                return;
            };
            let end = lines[at + 1..].iter().position(|l| header(l).is_some()).map_or(lines.len(), |n| at + 1 + n);
            (at + 1, end)
        }
    };
    let is_key = |l: &String| l.split_once('=').is_some_and(|(k, _)| k.trim() == key);
    match lines[start..end].iter().position(is_key) {
        Some(n) => lines[start + n] = wanted,
        None => {
            // Before the blank lines that end a section.
            let blank = lines[start..end].iter().rev().take_while(|l| l.trim().is_empty()).count();
            lines.insert(end - blank, wanted);
        }
    }
}
