//! Options as they are given, in Python or as text in a URL's query, and what is read from them.

use crate::error::{Error, Result};
use serde_json::Value;
use std::time::Duration;

/// One option of a transport. What cannot be read from it is an error that names both, and what would
/// be right.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The transport's name in errors, such as `Redis`.
    pub transport: &'static str,
    /// Its name.
    pub name: &'a str,
    /// What was given.
    pub value: &'a Value,
}

impl<'a> Given<'a> {
    /// A member of the dictionary that this option is.
    pub fn member(&self, name: &'a str, value: &'a Value) -> Self {
        Self { transport: self.transport, name, value }
    }

    /// The error of a value that is of the right type and wrong all the same.
    pub fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("the {} transport option '{}' {what}", self.transport, self.name))
    }

    /// The error of a value of another type than `right`.
    pub fn ill_typed(&self, right: &str) -> Error {
        let kind = match self.value {
            Value::Null => "None",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a dictionary",
        };
        Error::type_error(format!(
            "the {} transport option '{}' must be {right}, not {kind}",
            self.transport, self.name
        ))
    }

    /// A text.
    ///
    /// # Errors
    /// `Type`
    pub fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.ill_typed("a text"))
    }

    /// A text that is not empty.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn non_empty(&self) -> Result<String> {
        match self.text()? {
            text if text.is_empty() => Err(self.invalid("must not be empty")),
            text => Ok(text),
        }
    }

    /// True or false, also as 1 and 0 and in the words that URLs have for them.
    ///
    /// # Errors
    /// `Type`
    pub fn flag(&self) -> Result<bool> {
        match self.value {
            Value::Bool(flag) => Ok(*flag),
            Value::Number(number) if number.as_i64() == Some(1) => Ok(true),
            Value::Number(number) if number.as_i64() == Some(0) => Ok(false),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err(self.ill_typed("true or false")),
            },
            _ => Err(self.ill_typed("true or false")),
        }
    }

    /// A number, also as text; `right` says of what.
    ///
    /// # Errors
    /// `Type`
    pub fn number(&self, right: &str) -> Result<f64> {
        match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.ill_typed(right))
    }

    /// A positive number of seconds.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn seconds(&self) -> Result<Duration> {
        let seconds = self.number("a number of seconds")?;
        // A hundred years: far beyond any use, and within what clocks can add.
        if seconds > 0.0 && seconds <= 3.2e9 {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(self.invalid("must be a positive number of seconds"))
    }

    /// As [`Given::seconds`]; 0 is `None`.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn seconds_or_none(&self) -> Result<Option<Duration>> {
        match self.number("a number of seconds")? {
            0.0 => Ok(None),
            _ => self.seconds().map(Some),
        }
    }

    /// A positive number of milliseconds.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn milliseconds(&self) -> Result<Duration> {
        let milliseconds = self.number("a number of milliseconds")?;
        if milliseconds > 0.0 && milliseconds <= 3.2e12 {
            return Ok(Duration::from_secs_f64(milliseconds / 1000.0));
        }
        Err(self.invalid("must be a positive number of milliseconds"))
    }

    /// A whole number from 1 on; `right` says of what.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn count(&self, right: &str) -> Result<usize> {
        let number = self.number(right)?;
        if (1.0..=1e9).contains(&number) && number.fract() == 0.0 {
            return Ok(number as usize);
        }
        Err(self.invalid("must be a whole number from 1 on"))
    }

    /// A whole number from 0 on.
    ///
    /// # Errors
    /// `Type` or `Invalid`
    pub fn whole(&self) -> Result<u64> {
        let number = self.number("a whole number")?;
        // As many as fit into 32 bits: nothing that is counted here is more.
        if (0.0..=4_294_967_295.0).contains(&number) && number.fract() == 0.0 {
            return Ok(number as u64);
        }
        Err(self.invalid("must be a whole number from 0 on"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use serde_json::json;

    fn given(value: &Value) -> Given<'_> {
        Given { transport: "Test", name: "it", value }
    }

    #[test]
    fn texts_of_urls_are_read_as_what_they_say() {
        assert!(given(&json!("Yes")).flag().unwrap());
        assert_eq!(given(&json!("2.5")).seconds().unwrap(), Duration::from_millis(2500));
        assert_eq!(given(&json!("0")).seconds_or_none().unwrap(), None);
        assert_eq!(given(&json!("4294967295")).whole().unwrap(), u64::from(u32::MAX));
        assert_eq!(given(&json!(7)).count("a number of things").unwrap(), 7);
    }

    #[test]
    fn errors_name_the_transport_the_option_and_what_would_be_right() {
        let text = given(&json!([])).number("a number of seconds").unwrap_err().to_string();
        assert_eq!(text, "the Test transport option 'it' must be a number of seconds, not a list");
        for (value, kind) in [
            (json!(-1), ErrorKind::Invalid),
            (json!("soon"), ErrorKind::Type),
            (json!(1e10), ErrorKind::Invalid),
            (json!("nan"), ErrorKind::Invalid),
        ] {
            assert_eq!(given(&value).seconds().unwrap_err().kind(), kind, "{value}");
            assert_eq!(given(&value).whole().unwrap_err().kind(), kind, "{value}");
        }
        assert_eq!(given(&json!(1.5)).whole().unwrap_err().kind(), ErrorKind::Invalid);
    }
}
