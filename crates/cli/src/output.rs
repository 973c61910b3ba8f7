//! Where data goes, and how tables, JSON and YAML look.

use std::io::Write;

use serde_json::Value;

use crate::CliError;

/// Standard output, or a buffer in tests.
pub struct Output {
    to: Box<dyn Write + Send>,
    err: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// The process's standard output.
    pub fn stdout() -> Self {
        Self { to: Box::new(std::io::stdout()), err: Box::new(std::io::stderr()) }
    }
    /// Anything else that takes bytes: for data, and for everything else.
    pub fn to(data: impl Write + Send + 'static, rest: impl Write + Send + 'static) -> Self {
        Self { to: Box::new(data), err: Box::new(rest) }
    }
    /// Writes a remark, or an error that does not end the command, to standard error.
    pub fn note(&mut self, text: impl std::fmt::Display) {
        let _ = writeln!(self.err, "{text}");
    }
    /// Writes a line. A reader that has gone away ends the program quietly, as in a pipe.
    pub fn line(&mut self, text: impl AsRef<str>) {
        if writeln!(self.to, "{}", text.as_ref()).is_err() {
            std::process::exit(0);
        }
    }
    /// Writes a table with aligned columns.
    pub fn table(&mut self, header: &[String], rows: &[Vec<String>]) {
        for line in table(header, rows) {
            self.line(line);
        }
    }
    /// Writes JSON for programs.
    pub fn json(&mut self, value: &Value) -> Result<(), CliError> {
        self.line(serde_json::to_string_pretty(value)?);
        Ok(())
    }
    /// Writes YAML.
    pub fn yaml(&mut self, value: &Value) -> Result<(), CliError> {
        let text = serde_saphyr::to_string(value).map_err(|e| CliError::new(e.to_string()))?;
        self.line(text.trim_end());
        Ok(())
    }
}

/// Columns as wide as their widest cell, three spaces between them.
pub fn table(header: &[String], rows: &[Vec<String>]) -> Vec<String> {
    let columns = header.len();
    let mut widths: Vec<usize> = header.iter().map(|h| h.chars().count()).collect();
    for row in rows {
        for (i, cell) in row.iter().take(columns).enumerate() {
            widths[i] = widths[i].max(cell.chars().count());
        }
    }
    let render = |row: &[String]| {
        let mut line = String::new();
        for (i, cell) in row.iter().take(columns).enumerate() {
            if i + 1 == columns {
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', widths[i] - cell.chars().count() + 3));
            }
        }
        line.trim_end().to_owned()
    };
    std::iter::once(render(header)).chain(rows.iter().map(|r| render(r))).collect()
}

/// Borrowed text as a row or header.
pub fn cells<const N: usize>(texts: [&str; N]) -> Vec<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_are_not_padded() {
        let lines = table(&cells(["NAME", "A"]), &[cells(["x", "1"]), cells(["longer", ""])]);
        assert_eq!(lines, ["NAME     A", "x        1", "longer"]);
    }
}
