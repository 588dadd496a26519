//! Links between the pages of the repository.

use std::path::{Component, Path};

use crate::finding::Finding;
use crate::tree::Tree;

/// Finds relative links to a file or a heading that is not there.
pub(crate) fn check(tree: &Tree, path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, target) in targets(text) {
        if target.contains("://") || target.starts_with("mailto:") {
            continue;
        }
        let (file, heading) = target
            .split_once('#')
            .map_or((target.as_str(), None), |(f, h)| (f, Some(h)));
        let leads_to = if file.is_empty() {
            Some(path.to_owned())
        } else {
            resolve(path, file)
        };
        let Some(leads_to) = leads_to.filter(|it| tree.has(it) || it == path) else {
            findings.push(Finding::new(
                path,
                line,
                format!("the link `{target}` leads to no file: correct it"),
            ));
            continue;
        };
        let page = if leads_to == path {
            Some(text)
        } else {
            tree.text(&leads_to)
        };
        if let (Some(heading), Some(page)) = (heading, page)
            && leads_to.ends_with(".md")
            && !headings(page).iter().any(|it| it == heading)
        {
            findings.push(Finding::new(
                path,
                line,
                format!("the link `{target}` leads to no heading: correct it"),
            ));
        }
    }
    findings
}

/// The targets of links, `[text](target)` and `[text]: target`, outside of code, with their lines.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, prose) in prose(text) {
        let mut rest = prose.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let end = after.find(')').unwrap_or(after.len());
            let target = after[..end].split_whitespace().next().unwrap_or_default();
            found.push((line, target.trim_matches(['<', '>']).to_owned()));
            rest = &after[end..];
        }
        if prose.starts_with('[')
            && let Some((_, target)) = prose.split_once("]: ")
        {
            found.push((
                line,
                target
                    .split_whitespace()
                    .next()
                    .unwrap_or_default()
                    .to_owned(),
            ));
        }
    }
    found
}

/// The lines outside of fenced blocks, without what stands between backquotes.
fn prose(text: &str) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let outside: Vec<&str> = line.split('`').step_by(2).collect();
            lines.push((number + 1, outside.join("")));
        }
    }
    lines
}

/// The path from the top of the repository; None above it.
fn resolve(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<String> = Vec::new();
    let folder = Path::new(from).parent()?;
    for part in folder.join(target).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

/// The headings of a page as links name them: lower case, spaces as hyphens, other marks dropped.
fn headings(page: &str) -> Vec<String> {
    let mut fenced = false;
    let mut slugs = Vec::new();
    for line in page.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.trim_start_matches('#');
        if fenced || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let kept = title.trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|it| it.is_alphanumeric() || matches!(it, ' ' | '-' | '_'));
        slugs.push(kept.map(|it| if it == ' ' { '-' } else { it }).collect());
    }
    slugs
}
