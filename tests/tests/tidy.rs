//! What the compiler does not check of the repository: opening comments, widths and lengths of files, pure cores, and
//! references that lead somewhere.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

const WIDTH_MAX: usize = 120;
const LINES_MAX: usize = 450;
/// Folders that hold nothing written by hand.
const SKIPPED: &str = "target node_modules gen .git .parts .pytest_cache";
/// What a `core` folder of a service may not mention: it gets the time and its input, and returns decisions. The store,
/// the bus and the other parts of the shell import the core, and not the reverse.
const IMPURE: &str = "tokio async .await std::net std::fs std::thread Instant::now steady_ms() wall_ms() \
     crate::store crate::bus crate::context crate::run crate::partition crate::ownership";

/// Words that hide the subject of a sentence.
const UNCLEAR: &str = "nobody somebody anybody everybody whoever";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

/// Every file with this extension, by its path in the repository.
fn files(extension: &str) -> Vec<(String, String)> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            if path.is_dir() && !SKIPPED.split(' ').any(|skipped| skipped == name) {
                folders.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let shown = path.strip_prefix(&root).expect("below").display().to_string();
                found.push((shown, std::fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} files");
    found.sort();
    found
}

fn is_unclear(word: &str) -> bool {
    UNCLEAR.split(' ').any(|unclear| word.eq_ignore_ascii_case(unclear))
}

fn none(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n{}", wrong.join("\n"));
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> HashSet<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let headings =
        text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let anchor = |heading: &str| -> String {
        let kept = heading
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        kept.replace(' ', "-")
    };
    headings
        .map(|heading| {
            let anchor = anchor(heading);
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// Whether a link from a file in `folder` leads to a file, and its anchor to a heading.
fn leads_somewhere(folder: &Path, link: &str) -> bool {
    let (path, anchor) = link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
    let target = folder.join(path);
    let Some(anchor) = anchor.filter(|_| target.extension().is_some_and(|extension| extension == "md"))
    else {
        return target.exists();
    };
    std::fs::read_to_string(target).is_ok_and(|text| anchors(&text).contains(anchor))
}

#[test]
fn source_files_say_what_they_are_for_and_stay_small() {
    let mut wrong = Vec::new();
    for (path, text) in files("rs") {
        if !text.starts_with("//!") {
            wrong.push(format!("{path}: does not open with what it is for (//!)"));
        }
        if text.lines().count() > LINES_MAX {
            wrong.push(format!("{path}: more than {LINES_MAX} lines"));
        }
        let is_comment = |line: &str| line.trim_start().starts_with("//");
        let is_wide = |line: &str| is_comment(line) && line.chars().count() > WIDTH_MAX;
        let wide = text.lines().enumerate().filter(|(_, line)| is_wide(line));
        wrong.extend(wide.map(|(number, _)| format!("{path}:{}: wider than {WIDTH_MAX}", number + 1)));
    }
    none("source files", &wrong);
}

#[test]
fn cores_are_pure() {
    let mut wrong = Vec::new();
    for (path, text) in files("rs").into_iter().filter(|(path, _)| path.contains("src/core/")) {
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        for (number, line) in code.enumerate().filter(|_| !path.ends_with("tests.rs")) {
            let impure = IMPURE.split(' ').filter(|word| line.contains(word));
            wrong.extend(impure.map(|word| format!("{path}: {word} in line of code {}: {line}", number + 1)));
        }
    }
    none("cores decide, drivers wait and read clocks", &wrong);
}

/// A reference is `docs/file.md`, with or without an anchor, or a paragraph of an RFC.
#[test]
fn comments_refer_to_what_is_there() {
    let (root, mut wrong) = (root(), Vec::new());
    for (path, text) in files("rs").into_iter().filter(|(path, _)| !path.ends_with("tidy.rs")) {
        for (number, line) in text.lines().enumerate() {
            let said = |what: &str| format!("{path}:{}: {what}: {}", number + 1, line.trim());
            if line.contains('§') && !text.contains("RFC") {
                wrong.push(said("a paragraph of what"));
            }
            let words =
                line.split_once("//").map_or("", |(_, comment)| comment).split(|c: char| !c.is_alphabetic());
            if words.into_iter().any(is_unclear) {
                wrong.push(said("name the subject"));
            }
            let references = line.match_indices("docs/").map(|(at, _)| &line[at..]);
            for reference in references.filter_map(|rest| rest.split(|c: char| " `\")],;".contains(c)).next())
            {
                let reference = reference.trim_end_matches(['.', ':']);
                if reference.contains(".md") && !leads_somewhere(&root, reference) {
                    wrong.push(said("leads nowhere"));
                }
            }
        }
    }
    none("references", &wrong);
}

#[test]
fn links_between_documents_lead_somewhere() {
    let (root, mut wrong) = (root(), Vec::new());
    for (path, text) in files("md") {
        let file = root.join(&path);
        let folder = file.parent().expect("a folder");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let here = format!("{}{link}", file.file_name().expect("a name").to_string_lossy());
            let link = if link.starts_with('#') { here.as_str() } else { link };
            if !leads_somewhere(folder, link) {
                wrong.push(format!("{path}: {link}"));
            }
        }
        let named = text.split('`').skip(1).step_by(2).filter(|_| path == "ARCHITECTURE.md");
        let paths = named.filter(|named| named.contains('/') && named.contains(".rs"));
        wrong
            .extend(paths.filter(|named| !root.join(named).exists()).map(|named| format!("{path}: {named}")));
    }
    none("links that lead nowhere", &wrong);
}
