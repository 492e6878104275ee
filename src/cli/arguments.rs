//! The arguments of a command, one by one, as getopt_long reads them.
//!
//! Options are `-x` and `--name`, and letters may share a dash. A value stands in the same argument, behind `=` (which
//! getopt would leave before the value of a letter) or just behind the letter, or is the next argument. Behind `--` there are no options. Omits which options there are and which
//! take a value: the command knows. Errors are sentences for the user. Holds the arguments.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What stands at one place.
#[derive(Debug, PartialEq, Eq)]
pub enum Arg<'a> {
    /// `-x`.
    Short(char),
    /// `--name`.
    Long(&'a str),
    /// What is no option.
    Value(OsString),
}

/// Goes through the arguments.
pub struct Parser {
    arguments: std::vec::IntoIter<OsString>,
    /// The last option, with its dashes.
    option: String,
    /// Behind its letter, in the same argument.
    letters: Vec<u8>,
    /// Behind its `=`.
    value: Option<OsString>,
    /// All that comes are values.
    only_values: bool,
}

impl Parser {
    /// Of the program.
    pub fn from_env() -> Parser {
        let mut arguments = std::env::args_os();
        arguments.next();
        Parser::new(arguments.collect())
    }

    /// Of these.
    pub fn from_args(arguments: &[&str]) -> Parser {
        Parser::new(arguments.iter().map(OsString::from).collect())
    }

    fn new(arguments: Vec<OsString>) -> Parser {
        let arguments = arguments.into_iter();
        Parser { arguments, option: String::new(), letters: Vec::new(), value: None, only_values: false }
    }

    /// The next one; it is an error that the last had a value which was not asked for.
    #[expect(clippy::should_implement_trait, reason = "what it gives is borrowed")]
    pub fn next(&mut self) -> Result<Option<Arg<'_>>, String> {
        if let Some(value) = self.value.take() {
            return Err(format!("unexpected argument for option '{}': \"{}\"", self.option, value.display()));
        }
        if self.letters.is_empty() {
            let Some(argument) = self.arguments.next() else { return Ok(None) };
            match argument.as_bytes() {
                b"--" if !self.only_values => {
                    self.only_values = true;
                    return self.next();
                }
                [b'-', b'-', ..] if !self.only_values => {
                    let mut parts = argument.as_bytes().splitn(2, |byte| *byte == b'=');
                    self.option = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
                    self.value = parts.next().map(|value| OsString::from_vec(value.to_vec()));
                    return Ok(Some(Arg::Long(&self.option[2..])));
                }
                [b'-', letters @ ..] if !self.only_values && !letters.is_empty() => {
                    self.letters = letters.to_vec();
                }
                _ => return Ok(Some(Arg::Value(argument))),
            }
        }
        let letter = self.letters.remove(0);
        if !letter.is_ascii() {
            return Err(format!("invalid option '-\\x{letter:x}{}'", self.letters.escape_ascii()));
        }
        let letter = char::from(letter);
        self.option = format!("-{letter}");
        if let [b'=', value @ ..] = &self.letters[..] {
            self.value = Some(OsString::from_vec(value.to_vec()));
            self.letters.clear();
        }
        Ok(Some(Arg::Short(letter)))
    }

    /// The value of the option that came last.
    pub fn value(&mut self) -> Result<OsString, String> {
        let letters = std::mem::take(&mut self.letters);
        let here = if letters.is_empty() { self.value.take() } else { Some(OsString::from_vec(letters)) };
        let value = here.or_else(|| self.arguments.next());
        value.ok_or_else(|| format!("missing argument for option '{}'", self.option))
    }

    /// The same where it is to be a text.
    pub fn text(&mut self) -> Result<String, String> {
        self.value().and_then(text)
    }
}

impl Arg<'_> {
    /// Why it is refused.
    pub fn unexpected(&self) -> String {
        match self {
            Arg::Short(letter) => format!("invalid option '-{letter}'"),
            Arg::Long(name) => format!("invalid option '--{name}'"),
            Arg::Value(value) => format!("unexpected argument \"{}\"", value.display()),
        }
    }
}

/// A value that is to be a text.
pub fn text(value: OsString) -> Result<String, String> {
    value.into_string().map_err(|value| format!("argument is invalid unicode: \"{}\"", value.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All, where `-o` and `--of` take a value.
    fn read(arguments: &[&str]) -> Result<String, String> {
        let mut parser = Parser::from_args(arguments);
        let mut all = Vec::new();
        while let Some(arg) = parser.next()? {
            let (name, takes) = match arg {
                Arg::Short(letter) => (format!("-{letter}"), letter == 'o'),
                Arg::Long(name) => (format!("--{name}"), name == "of"),
                Arg::Value(value) => (text(value)?, false),
            };
            all.push(if takes { format!("{name}({})", parser.text()?) } else { name });
        }
        Ok(all.join(" "))
    }

    #[test]
    fn options_and_values_may_be_written_in_each_usual_way() {
        for (arguments, all) in [
            (&["a", "-x", "--name", "b"][..], "a -x --name b"),
            (&["-xyo", "1", "-o2", "-o=3", "-xo4"], "-x -y -o(1) -o(2) -o(3) -x -o(4)"),
            (&["--of", "1", "--of=2", "--of=", "--of", "--of=3=4"], "--of(1) --of(2) --of() --of(--of=3=4)"),
            (&["-o", "-x", "-o", "--"], "-o(-x) -o(--)"),
            (&["-", "--", "-x", "--", "-"], "- -x -- -"),
            (&[], ""),
        ] {
            assert_eq!(read(arguments).as_deref(), Ok(all), "{arguments:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_the_options_name() {
        for (arguments, why) in [
            (&["-o"][..], "missing argument for option '-o'"),
            (&["--of"], "missing argument for option '--of'"),
            (&["--name=1"], "unexpected argument for option '--name': \"1\""),
            (&["-x=1"], "unexpected argument for option '-x': \"1\""),
            (&["-xé"], "invalid option '-\\xc3\\xa9'"),
        ] {
            assert_eq!(read(arguments), Err(why.to_owned()), "{arguments:?}");
        }
        assert_eq!(Arg::Short('x').unexpected(), "invalid option '-x'");
        assert_eq!(Arg::Long("x").unexpected(), "invalid option '--x'");
        assert_eq!(Arg::Value("x".into()).unexpected(), "unexpected argument \"x\"");
    }

    #[test]
    fn paths_need_not_be_text() {
        let mut parser =
            Parser::new(vec![OsString::from_vec(b"-o\xff".to_vec()), OsString::from_vec(vec![0xff])]);
        assert_eq!(parser.next(), Ok(Some(Arg::Short('o'))));
        assert_eq!(parser.value(), Ok(OsString::from_vec(vec![0xff])));
        assert_eq!(parser.text(), Err("argument is invalid unicode: \"\u{fffd}\"".to_owned()));
    }
}
