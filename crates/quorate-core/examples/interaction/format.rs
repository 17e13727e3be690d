//! The text format of etcd-io/raft's interaction tests ("datadriven"), read into steps.
//!
//! ```text
//! # a comment                       between steps, blank lines and comments say nothing
//! add-nodes 3 voters=(1,2,3) \      a directive: a word, then `key`, `key=value` or `key=(a,b)`
//!   index=10                        (a trailing backslash joins lines)
//! v3 l4                             optional input, up to the line of dashes; only a change of the
//!                                   members has any, elsewhere each line is one more directive
//! ----
//! ok                                expected output, up to the first blank line; or, when it
//!                                   begins with a second line of dashes, up to two more of them
//! ```
//!
//! Not here: what a directive means (`cluster.rs`), what the output says (`expected.rs`).

/// One directive with what should come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Where the directive stands, from 1.
    pub(crate) line: usize,
    /// The first word.
    pub(crate) directive: String,
    /// What follows it on the line.
    pub(crate) arguments: Vec<Argument>,
    /// The lines up to the dashes.
    pub(crate) input: Vec<String>,
    /// The lines after them.
    pub(crate) expected: Vec<String>,
    /// What is expected of it stands in the step after it, with what is expected of that one.
    pub(crate) goes_on: bool,
}

/// One argument; without `=` it has no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Argument {
    /// What stands before the `=`.
    pub(crate) key: String,
    /// What stands after it.
    pub(crate) values: Vec<String>,
}

const DASHES: &str = "----";
/// The directive that has input.
const WITH_INPUT: &str = "propose-conf-change";

/// Reads a whole file.
///
/// # Errors
/// The line that cannot be understood, and why.
pub(crate) fn parse(text: &str) -> Result<Vec<Step>, String> {
    let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line)).peekable();
    let mut steps = Vec::new();
    while let Some((line, first)) = lines.next() {
        let mut directive = first.trim().to_owned();
        if directive.is_empty() || directive.starts_with('#') {
            continue;
        }
        while directive.ends_with('\\') {
            directive.pop();
            let (_, next) = lines.next().ok_or(format!("line {line}: the file ends inside a directive"))?;
            directive.push_str(next.trim());
        }
        let (mut input, mut goes_on) = (Vec::new(), false);
        loop {
            if !directive.starts_with(WITH_INPUT) && lines.peek().is_some_and(|(_, next)| *next != DASHES) {
                goes_on = true;
                break;
            }
            match lines.next() {
                Some((_, DASHES)) => break,
                Some((_, said)) => input.push(said.to_owned()),
                None => return Err(format!("line {line}: no {DASHES} after the directive")),
            }
        }
        let mut expected = Vec::new();
        if goes_on {
            // The next directive has it.
        } else if lines.next_if(|(_, next)| *next == DASHES).is_some() {
            while let Some((_, said)) = lines.next() {
                if said == DASHES && lines.next_if(|(_, next)| *next == DASHES).is_some() {
                    break;
                }
                expected.push(said.to_owned());
            }
        } else {
            while let Some((_, said)) = lines.next_if(|(_, next)| !next.is_empty()) {
                expected.push(said.to_owned());
            }
        }
        let (directive, arguments) =
            words(&directive).map_err(|what| format!("line {line}: {what}: {directive}"))?;
        steps.push(Step { line, directive, arguments, input, expected, goes_on });
    }
    Ok(steps)
}

/// Splits a directive at blanks that are outside parentheses.
fn words(line: &str) -> Result<(String, Vec<Argument>), &'static str> {
    let (mut words, mut depth, mut word) = (Vec::new(), 0_u32, String::new());
    for letter in line.chars() {
        match letter {
            '(' => depth += 1,
            ')' => depth = depth.checked_sub(1).ok_or("a parenthesis is closed that was not opened")?,
            _ => {}
        }
        if letter.is_whitespace() && depth == 0 {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(letter);
        }
    }
    words.push(word);
    if depth > 0 {
        return Err("a parenthesis is not closed");
    }
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let directive = words.next().ok_or("no directive")?;
    Ok((directive, words.map(|word| argument(&word)).collect()))
}

fn argument(word: &str) -> Argument {
    let Some((key, value)) = word.split_once('=') else {
        return Argument { key: word.to_owned(), values: Vec::new() };
    };
    let inner = value.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    let values = match inner {
        Some(list) => {
            list.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
        }
        None => vec![value.to_owned()],
    };
    Argument { key: key.to_owned(), values }
}

impl Step {
    /// The arguments without `=`.
    pub(crate) fn plain(&self) -> impl Iterator<Item = &str> {
        self.arguments
            .iter()
            .filter(|argument| argument.values.is_empty())
            .map(|argument| argument.key.as_str())
    }

    /// The replicas named by plain arguments (those that are numbers).
    pub(crate) fn replicas(&self) -> Vec<u64> {
        self.plain().filter_map(|word| word.parse().ok()).collect()
    }

    /// The values of `key`; none when it is not there.
    pub(crate) fn values(&self, key: &str) -> &[String] {
        self.arguments.iter().find(|argument| argument.key == key).map_or(&[], |argument| &argument.values)
    }

    /// The one value of `key`.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.values(key).first().map(String::as_str)
    }

    /// The values of `key` as replicas.
    pub(crate) fn numbers(&self, key: &str) -> Vec<u64> {
        self.values(key).iter().filter_map(|value| value.parse().ok()).collect()
    }

    /// Whether `key` is switched on.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.value(key) == Some("true")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_steps_with_arguments_input_and_output() {
        let text = "# a story\n\nadd-nodes 2 voters=(1,2) \\\n  index=5 empty=\n----\nok\n\n\
                    # then\npropose-conf-change 1 v1=true\nr2 v3\n----\na\nb\n\nlast\n----\n";
        let steps = parse(text).unwrap();
        assert_eq!(steps.len(), 3);
        assert_eq!((steps[0].line, steps[0].directive.as_str()), (3, "add-nodes"));
        assert_eq!(steps[0].replicas(), [2]);
        assert_eq!(steps[0].numbers("voters"), [1, 2]);
        assert_eq!((steps[0].value("index"), steps[0].value("empty")), (Some("5"), Some("")));
        assert_eq!(steps[1].input, ["r2 v3"]);
        assert!(steps[1].is_on("v1"));
        assert_eq!(steps[1].expected, ["a", "b"]);
        assert!(steps[2].expected.is_empty());
    }

    #[test]
    fn several_directives_share_what_is_expected() {
        let steps = parse("campaign 1\nstabilize\n----\nok\n").unwrap();
        assert_eq!([steps[0].goes_on, steps[1].goes_on], [true, false]);
        assert_eq!((steps[0].expected.len(), steps[1].expected.as_slice()), (0, &["ok".to_owned()][..]));
    }

    #[test]
    fn doubled_dashes_keep_blank_lines() {
        let steps = parse("say\n----\n----\none\n\ntwo\n----\n----\n\nnext\n----\nok\n").unwrap();
        assert_eq!(steps[0].expected, ["one", "", "two"]);
        assert_eq!(steps[1].directive, "next");
    }

    #[test]
    fn what_is_no_step_is_named_with_its_line() {
        assert!(parse("\ncampaign 1\n").unwrap_err().contains("line 2"));
        assert!(parse("deliver drop=(1\n----\n").unwrap_err().contains("parenthesis"));
        assert!(parse("deliver drop=1)\n----\n").unwrap_err().contains("parenthesis"));
    }
}
