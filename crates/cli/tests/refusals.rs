//! The page on refusals: every row of it is asked of the embedded API, and what it answers stands in the page.
#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;

use serde::Deserialize;
use support::Server;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    before: String,
    sections: Vec<Section>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Section {
    title: String,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    there: String,
    r#do: Option<String>,
    run: Option<String>,
    setup: Option<String>,
    here: Option<String>,
    because: Option<String>,
}

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/refusals.md");

const HEAD: &str = "\
# What is refused, there and here

What Harvester's network controller (1.9) and its hooks for Kube-OVN refuse, beside what Multihome says to the same. Where
nothing is refused, the last column says why. Every answer on this page is one that the API gave: the page is written by a test,
which also sees that what is not refused is taken.

The rules are one library. The embedded API asks it inside the transaction of the write; a Kubernetes API asks it as a
[webhook](../guides/kubernetes.md).
";

/// What was answered, as it stands in the page.
fn sentence(answer: &str) -> String {
    let line = answer.lines().find(|l| l.starts_with("error: ")).unwrap_or_default();
    let text = line.trim_start_matches("error: ");
    text.replace('|', "\\|").replace('<', "&lt;")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_its_counterpart() {
    let fixture = include_str!("fixtures/refusals.yaml");
    let page: Page = serde_saphyr::from_str(fixture).unwrap();
    let server = Server::start().await;
    let said = server.apply(&page.before).await;
    assert!(!said.contains("error"), "{said}");
    server.until("multihome get nic db -o yaml", "address: 10.3.0.10").await;
    let (mut text, mut problems) = (HEAD.to_owned(), vec![]);
    for section in page.sections {
        let _ = write!(text, "\n## {}\n\n| there | here |\n| --- | --- |\n", section.title);
        for row in section.rows {
            if let Some(setup) = &row.setup {
                let said = server.apply(setup).await;
                assert!(!said.contains("error"), "{}: {said}", row.there);
            }
            let answer = match (&row.r#do, &row.run) {
                (Some(manifest), None) => Some(server.apply(manifest).await),
                (None, Some(line)) => Some(server.run(line).await),
                _ => None,
            };
            let mut here = String::new();
            match (&answer, &row.here) {
                (Some(answer), Some(expected)) => {
                    if !answer.contains("error: ") || !answer.contains(expected.as_str()) {
                        problems.push(format!("«{}»: expected {expected:?}, got {answer}", row.there));
                    }
                    here = sentence(answer);
                }
                (Some(answer), None) if answer.contains("error") => {
                    problems.push(format!("«{}» was not taken: {answer}", row.there));
                }
                (None, _) if row.because.is_none() => problems.push(format!("«{}» has no counterpart", row.there)),
                _ => {}
            }
            if let Some(why) = &row.because {
                let taken = if row.here.is_none() && answer.is_some() { "Taken. " } else { "" };
                here = [here, format!("*{taken}{why}*")]
                    .into_iter()
                    .filter(|s| !s.is_empty())
                    .collect::<Vec<_>>()
                    .join(" ");
            }
            let there = row.there.replace('|', "\\|").replace('<', "&lt;");
            let _ = writeln!(text, "| {there} | {here} |");
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    if std::env::var_os("UPDATE_PAGES").is_some() {
        std::fs::write(PAGE, &text).unwrap();
    }
    let written = std::fs::read_to_string(PAGE).unwrap_or_default();
    assert!(
        written == text,
        "docs/reference/refusals.md is stale: UPDATE_PAGES=1 cargo test -p multihome --test refusals"
    );
}
