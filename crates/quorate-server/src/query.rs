//! A URL's query with values of any bytes.
//!
//! `%FF` is a byte, not a character; `+` is a space as in forms; a broken escape is an error. Parameters
//! that nobody took are an error too: a typing mistake must not change what is asked.

use crate::error::ApiError;

/// The parameters not taken yet.
#[derive(Debug)]
pub(crate) struct Query {
    parameters: Vec<(String, Vec<u8>)>,
}

impl Query {
    pub(crate) fn parse(query: Option<&str>) -> Result<Self, ApiError> {
        let mut parameters: Vec<(String, Vec<u8>)> = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if parameters.iter().any(|(known, _)| known == name) {
                return Err(ApiError::invalid(format!("the parameter {name:?} is given twice")));
            }
            parameters.push((name.to_owned(), percent_decode(value.as_bytes(), true)?));
        }
        Ok(Self { parameters })
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Vec<u8>> {
        let at = self.parameters.iter().position(|(known, _)| known == name)?;
        Some(self.parameters.swap_remove(at).1)
    }

    pub(crate) fn take_number<T: std::str::FromStr>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else {
            return Ok(None);
        };
        let number = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
        let wrong = || ApiError::invalid(format!("the parameter {name:?} is not a number in range"));
        number.map(Some).ok_or_else(wrong)
    }

    /// Everything should be taken by now.
    pub(crate) fn end(self) -> Result<(), ApiError> {
        match self.parameters.first() {
            None => Ok(()),
            Some((name, _)) => Err(ApiError::invalid(format!("there is no parameter {name:?} here"))),
        }
    }
}

/// Undoes percent-encoding; with `form`, `+` is a space.
pub(crate) fn percent_decode(text: &[u8], form: bool) -> Result<Vec<u8>, ApiError> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => match (rest.next().copied().and_then(hex), rest.next().copied().and_then(hex)) {
                (Some(high), Some(low)) => high << 4 | low,
                _ => {
                    return Err(ApiError::invalid(
                        "a % is not followed by two hexadecimal digits: write %25",
                    ));
                }
            },
            b'+' if form => b' ',
            other => other,
        });
    }
    Ok(decoded)
}

const fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_byte_can_be_written() {
        assert_eq!(percent_decode(b"a%2Fb%ff%00+", false).unwrap(), b"a/b\xff\x00+");
        assert_eq!(percent_decode(b"a+b%2B", true).unwrap(), b"a b+");
        for broken in ["%", "%f", "%zz", "a%2"] {
            assert!(percent_decode(broken.as_bytes(), false).is_err(), "{broken}");
        }
    }

    #[test]
    fn parameters_are_taken_once_and_the_rest_is_an_error() {
        let mut query = Query::parse(Some("start=%FF&limit=10&oops=1")).unwrap();
        assert_eq!(query.take("start").unwrap(), b"\xff");
        assert_eq!(query.take("start"), None);
        assert_eq!(query.take_number::<u32>("limit").unwrap(), Some(10));
        assert!(query.end().unwrap_err().message.contains("oops"));
        assert!(Query::parse(Some("a=1&a=2")).is_err());
        assert!(Query::parse(Some("limit=-1")).unwrap().take_number::<u32>("limit").is_err());
    }
}
