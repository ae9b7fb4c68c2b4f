//! The results of runs: one line of JSON for each run, and a table of medians over the repetitions.

use serde_json::{Map, Value};
use std::fmt::Write;

/// Named numbers, in the order of insertion.
#[derive(Debug, Default, Clone)]
pub struct Figures(Vec<(&'static str, f64)>);

impl Figures {
    pub fn set(&mut self, name: &'static str, value: f64) {
        self.0.push((name, value));
    }

    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

/// One run of one system.
#[derive(Debug, Clone)]
pub struct Run {
    pub mode: &'static str,
    pub system: &'static str,
    /// The case within the mode, for example the size of the rooms.
    pub case: String,
    pub repetition: u32,
    pub figures: Figures,
    /// Other programs used too much CPU during the run, so its figures do not count.
    pub void: bool,
    pub error: Option<String>,
}

impl Run {
    /// A run with the figures that it found, or with its error.
    pub fn new(
        mode: &'static str,
        system: &'static str,
        case: String,
        repetition: u32,
        found: anyhow::Result<Figures>,
    ) -> Run {
        let (figures, error) = match found {
            Ok(figures) => (figures, None),
            Err(error) => (Figures::default(), Some(format!("{error:#}"))),
        };
        Run { mode, system, case, repetition, figures, void: false, error }
    }

    fn json(&self) -> String {
        let mut line = Map::new();
        line.insert("mode".into(), self.mode.into());
        line.insert("system".into(), self.system.into());
        line.insert("case".into(), self.case.clone().into());
        line.insert("repetition".into(), self.repetition.into());
        line.insert("void".into(), self.void.into());
        line.insert("error".into(), self.error.clone().map_or(Value::Null, Value::from));
        for (name, value) in &self.figures.0 {
            line.insert((*name).into(), rounded(*value).into());
        }
        Value::Object(line).to_string()
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// A column of the table: the name of a figure, its title, and its number of decimals.
pub struct Column {
    pub figure: &'static str,
    pub title: &'static str,
    pub decimals: usize,
}

/// All runs of a mode.
#[derive(Default)]
pub struct Report {
    runs: Vec<Run>,
}

impl Report {
    /// Prints a run's line of JSON and keeps the run. Returns whether the run counts.
    pub fn add(&mut self, run: Run) -> bool {
        println!("{}", run.json());
        let counts = !run.void && run.error.is_none();
        self.runs.push(run);
        counts
    }

    /// How many runs failed.
    pub fn failures(&self) -> usize {
        self.runs.iter().filter(|run| run.error.is_some()).count()
    }

    /// A table of medians, with the least and the greatest value, over the runs that count.
    pub fn table(&self, columns: &[Column]) -> String {
        let mut rows: Vec<(&str, &str)> = Vec::new();
        for run in &self.runs {
            if !rows.contains(&(&run.case, run.system)) {
                rows.push((&run.case, run.system));
            }
        }
        let titles: Vec<&str> = columns.iter().map(|column| column.title).collect();
        let mut table = format!("\n| | system | runs | {} |\n", titles.join(" | "));
        table.push_str(&"|---".repeat(columns.len() + 3));
        table.push_str("|\n");
        for (case, system) in rows {
            let of_row =
                |run: &&Run| run.case == case && run.system == system && !run.void && run.error.is_none();
            let runs: Vec<&Run> = self.runs.iter().filter(of_row).collect();
            // Writing to a string never fails.
            let _ = write!(table, "| {case} | {system} | {} |", runs.len());
            for column in columns {
                let values = runs.iter().filter_map(|run| run.figures.get(column.figure)).collect();
                let _ = write!(table, " {} |", spread(values, column.decimals));
            }
            table.push('\n');
        }
        table
    }
}

/// `median (least–greatest)`.
fn spread(mut values: Vec<f64>, decimals: usize) -> String {
    values.sort_by(f64::total_cmp);
    match *values {
        [] => "–".into(),
        [only] => format!("{only:.decimals$}"),
        [least, .., greatest] => {
            format!("{:.decimals$} ({least:.decimals$}–{greatest:.decimals$})", median(&values))
        }
    }
}

/// The median of sorted values. There must be at least one value.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(repetition: u32, found: anyhow::Result<f64>) -> Run {
        let figures = found.map(|value| Figures(vec![("p50_us", value)]));
        Run::new("fanout", "carillon", "rooms of 2".into(), repetition, figures)
    }

    #[test]
    fn medians_leave_out_void_and_failed_runs() {
        let mut report = Report::default();
        for (repetition, value) in [(1, 30.0), (2, 10.0), (3, 20.0)] {
            assert!(report.add(run(repetition, Ok(value))));
        }
        let void = Run { void: true, ..run(4, Ok(1_000.0)) };
        assert!(!report.add(void));
        assert!(!report.add(run(5, Err(anyhow::anyhow!("lost")))));
        assert_eq!(report.failures(), 1);
        let columns = [Column { figure: "p50_us", title: "p50", decimals: 1 }];
        assert!(report.table(&columns).contains("| rooms of 2 | carillon | 3 | 20.0 (10.0–30.0) |"));
        let absent = [Column { figure: "p99_us", title: "p99", decimals: 1 }];
        assert!(report.table(&absent).contains("| rooms of 2 | carillon | 3 | – |"));
    }

    #[test]
    fn a_line_is_json_with_the_error() {
        let line: Value =
            serde_json::from_str(&run(2, Err(anyhow::anyhow!("a \"quote\""))).json()).expect("JSON");
        assert_eq!((&line["error"], &line["repetition"]), (&"a \"quote\"".into(), &2.into()));
        let line: Value = serde_json::from_str(&run(1, Ok(0.123_456)).json()).expect("JSON");
        assert_eq!((&line["error"], &line["p50_us"]), (&Value::Null, &0.1235.into()));
    }

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_mean_of_the_middle_two() {
        assert_eq!(spread(vec![4.0, 1.0, 2.0, 3.0], 1), "2.5 (1.0–4.0)");
    }
}
