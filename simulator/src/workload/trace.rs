//! Recorded requests: Mooncake's JSON lines and the Azure LLM inference traces' CSV, gzipped or not.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::read::GzDecoder;
use picker_core::seed::Random;
use serde::{Deserialize, Serialize};

/// Tokens of a prompt that one of Mooncake's `hash_ids` stands for.
pub const TOKENS_PER_BLOCK: u32 = 512;

/// Mooncake's timestamps stand on a grid of so many milliseconds.
const MOONCAKE_GRID_MS: f64 = 3_000.0;

/// A recorded trace, in order of time. Clones share its rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trace {
    /// The file's name.
    pub file: String,
    #[serde(skip)]
    rows: Arc<[Row]>,
}

/// One recorded request.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Milliseconds after the first.
    pub at_ms: f64,
    /// Tokens of the prompt, at least 1.
    pub prompt_tokens: u32,
    /// Tokens of the answer, at least 1.
    pub output_tokens: u32,
    /// An id for each block of [`TOKENS_PER_BLOCK`] prompt tokens; equal ids stand for equal prefixes up to there. Empty if the
    /// trace does not say.
    pub blocks: Vec<u64>,
}

/// Why a trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("{file}: {error}")]
    File {
        /// The file.
        file: String,
        /// What the system said.
        error: io::Error,
    },
    /// A line makes no sense.
    #[error("{file}, line {line}: {problem}")]
    Line {
        /// The file.
        file: String,
        /// The line, from 1.
        line: usize,
        /// What it should be.
        problem: String,
    },
    /// There are fewer than two requests, which have no rate.
    #[error(
        "{0} has {1} requests: give a trace of at least 2, as Mooncake's JSON lines or Azure's CSV"
    )]
    Short(String, usize),
}

impl Trace {
    /// Reads `path`: Azure's CSV if the first line is its header, Mooncake's JSON lines otherwise; unpacked if it ends in `.gz`.
    ///
    /// Mooncake's timestamps stand on a grid of 3 seconds. Unless `as_is`, the requests of one grid point are spread evenly by
    /// chance over the 3 seconds that follow it, the same for every run.
    ///
    /// # Errors
    /// [`TraceError`], with file and line.
    pub fn read(path: &Path, as_is: bool) -> Result<Self, TraceError> {
        let file = path.display().to_string();
        let failed = |error| TraceError::File {
            file: path.display().to_string(),
            error,
        };
        let opened = File::open(path).map_err(failed)?;
        let reader: Box<dyn Read> = if path.extension().is_some_and(|end| end == "gz") {
            Box::new(GzDecoder::new(opened))
        } else {
            Box::new(opened)
        };
        let mut text = String::new();
        BufReader::new(reader)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Self::parse(file, text.as_bytes(), as_is)
    }

    fn parse(file: String, text: &[u8], as_is: bool) -> Result<Self, TraceError> {
        let mut rows = Vec::new();
        let mut azure = false;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.unwrap_or_default();
            if number == 1 && line.starts_with("TIMESTAMP,") {
                azure = true;
                continue;
            }
            if line.trim().is_empty() {
                continue;
            }
            let row = if azure {
                azure_row(&line)
            } else {
                mooncake_row(&line)
            };
            rows.push(row.map_err(|problem| TraceError::Line {
                file: file.clone(),
                line: number,
                problem,
            })?);
        }
        if rows.len() < 2 {
            return Err(TraceError::Short(file, rows.len()));
        }
        if !azure && !as_is {
            let mut random = Random::split(0, "grid");
            for row in &mut rows {
                let grid = ((row.at_ms + 1.0) / MOONCAKE_GRID_MS).floor();
                row.at_ms = (grid + random.unit()) * MOONCAKE_GRID_MS;
            }
        }
        rows.sort_by(|one: &Row, other| one.at_ms.total_cmp(&other.at_ms));
        let start = rows[0].at_ms;
        rows.iter_mut().for_each(|row| row.at_ms -= start);
        let name = Path::new(&file).file_name().unwrap_or_default();
        Ok(Self {
            file: name.to_string_lossy().into_owned(),
            rows: rows.into(),
        })
    }

    /// Every request, in order of time.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Requests a second, as recorded.
    #[must_use]
    pub fn rate(&self) -> f64 {
        1e3 / self.mean_gap_ms()
    }

    fn mean_gap_ms(&self) -> f64 {
        let last = self.rows.last().map_or(0.0, |row| row.at_ms);
        (last / (self.rows.len() - 1) as f64).max(f64::MIN_POSITIVE)
    }

    /// The row of the `place`-th request, with the gap before it in mean gaps; `first` is the place where a replay starts, which
    /// has no gap. After the last row comes the first, a mean gap later.
    pub(super) fn replayed(&self, first: usize, place: usize) -> Option<(f64, usize)> {
        let row = place % self.rows.len();
        let at_ms = |row: usize| self.rows.get(row).map(|row| row.at_ms);
        let gap = match row {
            _ if place == first => 0.0,
            0 => 1.0,
            _ => (at_ms(row)? - at_ms(row - 1)?) / self.mean_gap_ms(),
        };
        Some((gap, row))
    }

    /// The prompt of a row as text of `bytes_per_token` bytes a token: equal blocks give equal text.
    #[must_use]
    pub fn prompt(&self, row: u32, bytes_per_token: u32) -> String {
        let Some(row) = self.rows.get(row as usize) else {
            return String::new();
        };
        let mut text = String::new();
        for (place, block) in (1..).zip(&row.blocks) {
            let end = (place * TOKENS_PER_BLOCK * bytes_per_token) as usize;
            while text.len() < end {
                // Writing to a string cannot fail.
                let _ = write!(text, "block {block} of the record, ");
            }
            text.truncate(end);
        }
        let bytes = (row.prompt_tokens * bytes_per_token) as usize;
        text.truncate(bytes);
        text
    }
}

fn mooncake_row(line: &str) -> Result<Row, String> {
    #[derive(Deserialize)]
    struct Line {
        timestamp: f64,
        input_length: u32,
        output_length: u32,
        #[serde(default)]
        hash_ids: Vec<u64>,
    }
    let row: Line = serde_json::from_str(line).map_err(|error| {
        format!("{error}; give objects with timestamp, input_length, output_length and hash_ids")
    })?;
    Ok(Row {
        at_ms: row.timestamp,
        prompt_tokens: row.input_length.max(1),
        output_tokens: row.output_length.max(1),
        blocks: row.hash_ids,
    })
}

fn azure_row(line: &str) -> Result<Row, String> {
    let mut cells = line.trim().split(',');
    let mut next = || cells.next().unwrap_or_default();
    let (at, prompt, output) = (next(), next(), next());
    let row = azure_ms(at)
        .zip(prompt.parse().ok())
        .zip(output.parse().ok());
    let ((at_ms, prompt_tokens), output_tokens): ((f64, u32), u32) = row.ok_or_else(|| {
        format!("{line} is not TIMESTAMP,ContextTokens,GeneratedTokens such as 2023-11-16 18:17:03.9799600,4808,10")
    })?;
    Ok(Row {
        at_ms,
        prompt_tokens: prompt_tokens.max(1),
        output_tokens: output_tokens.max(1),
        blocks: Vec::new(),
    })
}

/// Milliseconds since 1970 of a time such as `2023-11-16 18:17:03.9799600`.
fn azure_ms(text: &str) -> Option<f64> {
    let (date, time) = text.split_once(' ')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':').map(|part| part.parse::<f64>().ok());
    let (hours, minutes, seconds) = (time.next()??, time.next()??, time.next()??);
    // Days since 1970 of a date (Howard Hinnant, days_from_civil): years begin in March, so that a leap day ends one.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(((days as f64 * 24.0 + hours) * 60.0 + minutes) * 60e3 + seconds * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Trace, TraceError> {
        Trace::parse("a/trace".into(), text.as_bytes(), true)
    }

    #[test]
    fn azure_rows_have_times_over_midnight_and_no_blocks() {
        let trace = parse(
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-12-31 23:59:59.9000000,4808,10\n2024-01-01 00:00:00.1000000,7,0\n",
        )
        .expect("two rows");
        let rows = trace.rows();
        assert_eq!((rows[0].at_ms, rows[1].at_ms.round()), (0.0, 200.0));
        assert_eq!((rows[0].prompt_tokens, rows[1].output_tokens), (4808, 1));
        assert!((trace.rate() - 5.0).abs() < 1e-6);
        assert_eq!(azure_ms("1970-01-02 00:00:01.5"), Some(86_401_500.0));
    }

    #[test]
    fn equal_blocks_of_mooncake_give_equal_text_up_to_there() {
        let trace = parse(
            "{\"timestamp\":0,\"input_length\":1100,\"output_length\":5,\"hash_ids\":[0,1,2]}\n\
             {\"timestamp\":3000,\"input_length\":900,\"output_length\":6,\"hash_ids\":[0,9]}\n",
        )
        .expect("two rows");
        let (one, other) = (trace.prompt(0, 4), trace.prompt(1, 4));
        assert_eq!((one.len(), other.len()), (4400, 3600));
        assert_eq!(one[..2048], other[..2048]);
        assert_ne!(one[2048..2100], other[2048..2100]);
    }

    #[test]
    fn a_grid_point_is_spread_over_the_time_to_the_next() {
        let line = |at| format!("{{\"timestamp\":{at},\"input_length\":1,\"output_length\":1}}\n");
        let text: String = [0, 0, 0, 0, 2999, 3000, 3000, 3000].map(line).concat();
        let trace = Trace::parse("t".into(), text.as_bytes(), false).expect("eight rows");
        let at: Vec<f64> = trace.rows().iter().map(|row| row.at_ms).collect();
        assert!(at.is_sorted() && at.windows(2).all(|pair| pair[0] < pair[1]));
        let early = at.iter().filter(|&&at| at < 2_999.0).count();
        assert!(early >= 4 && at[7] > 3_000.0, "{at:?}");
    }

    #[test]
    fn a_line_that_makes_no_sense_is_named() {
        for (text, names) in [
            (
                "{\"timestamp\":0}\n",
                "a/trace, line 1: missing field `input_length`",
            ),
            (
                "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n",
                "a/trace, line 2: yesterday",
            ),
            ("", "a/trace has 0 requests"),
        ] {
            let error = parse(text).expect_err("refused").to_string();
            assert!(error.starts_with(names), "{error}");
        }
    }
}
