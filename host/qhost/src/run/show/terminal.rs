//! Fits text to a terminal: a line that is too wide is cut, or goes on indented, since a terminal that breaks a line by itself goes on
//! where qhost's own lines begin. In a pipe, text stays as it is.

use std::os::fd::AsFd;

use rustix::termios::{isatty, tcgetwinsize};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// The width below which no column of a table is narrowed.
const COLUMN: usize = 8;
/// The indent of a folded line's further lines: as wide as the words that qhost's lines begin with.
const INDENT: &str = "          ";

/// The number of a terminal's columns; none if the stream is no terminal.
pub(super) fn width(stream: impl AsFd) -> Option<usize> {
    let columns = tcgetwinsize(&stream).ok()?.ws_col;
    // A terminal that does not say its width is taken to have 80 columns, as the first ones had.
    let columns = if columns == 0 { 80 } else { columns };
    isatty(&stream).then_some(usize::from(columns).max(2 * INDENT.len()))
}

/// Folds lines that are wider than the terminal at the last blank if there is one; they go on indented.
pub(super) fn folded(text: &str, width: Option<usize>) -> String {
    let Some(width) = width else { return text.to_owned() };
    text.split_inclusive('\n').map(|line| folded_line(line, width)).collect()
}

fn folded_line(line: &str, width: usize) -> String {
    let mut folded = String::with_capacity(line.len());
    let (mut column, mut in_style) = (0, false);
    // The last blank at which this line may be broken: the byte after it, and the column there.
    let mut blank: Option<(usize, usize)> = None;
    for character in line.chars() {
        // The only control characters in qhost's texts are line breaks and the styles of words.
        in_style |= character == '\x1b';
        let wide = if in_style { 0 } else { character.width().unwrap_or(0) };
        if column + wide > width {
            let (at, before) = match blank.take() {
                Some(blank) if character != ' ' => blank,
                Some(_) | None => (folded.len(), column),
            };
            let next = folded.split_off(at);
            folded.truncate(folded.trim_end_matches(' ').len());
            folded += &format!("\n{INDENT}{next}");
            column = INDENT.len() + column - before;
            // The line was broken at this blank, which is left out.
            if character == ' ' {
                continue;
            }
        }
        column += wide;
        folded.push(character);
        // A line that has only its indent has nothing to be broken at.
        if character == ' ' && column > INDENT.len() {
            blank = Some((folded.len(), column));
        }
        in_style &= character != 'm';
    }
    folded
}

/// Cuts a text to a width, with a mark if more follows.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut cut = String::new();
    for character in text.chars() {
        if cut.width() + character.width().unwrap_or(0) + 1 > width {
            break;
        }
        cut.push(character);
    }
    cut + "…"
}

/// Lays rows out in columns, each as wide as it must be; the widest are narrowed if the terminal is. The first row is bold. On a terminal
/// that is too narrow even for that, each row is several lines, a cell a line behind its column's name.
pub(super) fn table<const N: usize>(rows: &[[String; N]], width: Option<usize>) -> String {
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or(0)
    };
    let widths = narrowed((0..N).map(widest).collect(), width);
    let needed = widths.iter().sum::<usize>() + 2 * N.saturating_sub(1);
    if let (Some(width), [header, rows @ ..]) = (width, rows)
        && needed > width
        && !rows.is_empty()
    {
        return rows.iter().map(|row| block(header, row, width)).collect();
    }
    let bold = anstyle::Style::new().bold();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let cells = row.iter().zip(&widths).map(|(cell, width)| {
            let cell = cut(cell, *width);
            let blanks = " ".repeat(width.saturating_sub(cell.width()));
            cell + &blanks
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let line = cut(line.trim_end(), width.unwrap_or(usize::MAX));
        text += &match number {
            0 => format!("{bold}{line}{bold:#}\n"),
            _ => format!("{line}\n"),
        };
    }
    text
}

/// Lays out a row's cells, each behind its column's name, and a blank line.
fn block<const N: usize>(header: &[String; N], row: &[String; N], width: usize) -> String {
    let bold = anstyle::Style::new().bold();
    let names = header.iter().map(|name| name.width()).max().unwrap_or(0) + 2;
    let cells = header.iter().zip(row).filter(|(_, cell)| !cell.is_empty());
    let line = |(name, cell): (&String, &String)| {
        let blanks = " ".repeat(names.saturating_sub(name.width()));
        folded_line(&format!("{bold}{name}{bold:#}{blanks}{cell}\n"), width)
    };
    cells.map(line).collect::<String>() + "\n"
}

/// Narrows the widest of the columns until all fit.
fn narrowed(mut widths: Vec<usize>, most: Option<usize>) -> Vec<usize> {
    let Some(most) = most else { return widths };
    let between = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + between > most {
        match widths.iter_mut().max() {
            Some(widest) if *widest > COLUMN => *widest -= 1,
            Some(_) | None => break,
        }
    }
    widths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows = [["NAME", "N"], ["ウェブ", "1"], ["gru\u{308}n", "2"], ["web", "3"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let shown = table(&rows, None);
        let bold = anstyle::Style::new().bold();
        let expected = format!("{bold}NAME    N{bold:#}\nウェブ  1\ngru\u{308}n    2\nweb     3\n");
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_widest_columns_give_way() {
        let long = "x".repeat(40);
        let rows = [["ID", "TASK", "TENANT"], ["web-12345678", &long, &long]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let shown = table(&rows, Some(60));
        let last = shown.lines().last().unwrap();
        assert_eq!(last, format!("web-12345678  {0}…  {0}…", "x".repeat(21)));
        assert!(shown.lines().all(|line| line.width() <= 60 + 4), "{shown}");
        assert!(table(&rows, None).contains(&long));
        // If no column can be narrowed any more, each cell has a line.
        let rows =
            [["ID", "TASK", "TENANT"], ["web-1234", "web", "acme"], ["db-12345", "", "acme"]];
        let rows = rows.map(|row| row.map(str::to_owned));
        let plain = table(&rows, Some(21)).replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
        let expected =
            "ID      web-1234\nTASK    web\nTENANT  acme\n\nID      db-12345\nTENANT  acme\n\n";
        assert_eq!(plain, expected);
        assert!(table(&rows[..1], Some(10)).contains("ID"), "a table of nothing has its header");
    }

    #[test]
    fn folded_lines_go_on_indented() {
        let style = anstyle::AnsiColor::Red.on_default();
        let text = format!("{style}ended{style:#}     {}host      allowed\nnext\n", "x".repeat(30));
        let folded = folded(&text, Some(40));
        let lines: Vec<_> = folded.lines().collect();
        assert_eq!(lines[1..], ["          host      allowed", "next"]);
        let text = "ended     QEMU did not answer within the time that it had";
        let folded = super::folded(text, Some(30));
        let lines: Vec<_> = folded.lines().map(str::trim_end).collect();
        assert_eq!(
            lines,
            ["ended     QEMU did not answer", "          within the time that", "          it had"]
        );
        assert_eq!(super::folded(text, None), text);
        assert_eq!(cut("ウェブ", 5), "ウェ…");
        assert_eq!(cut("abc", 3), "abc");
    }
}
