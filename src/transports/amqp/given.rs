//! Options as they are given, in Python or as text in a URL's query, and what is read from them.

use crate::error::{Error, Result};
use crate::io::tls::{TlsOptions, Verify};
use serde_json::Value;
use std::time::Duration;

/// One option.
pub(super) struct Given<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
}

impl Given<'_> {
    pub(super) fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("the AMQP transport option '{}' {what}", self.name))
    }

    pub(super) fn ill_typed(&self, right: &str) -> Error {
        let kind = match self.value {
            Value::Null => "None",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
            Value::Object(_) => "a dictionary",
        };
        Error::type_error(format!(
            "the AMQP transport option '{}' must be {right}, not {kind}",
            self.name
        ))
    }

    pub(super) fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.ill_typed("a text"))
    }

    pub(super) fn flag(&self) -> Result<bool> {
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

    pub(super) fn number(&self, right: &str) -> Result<f64> {
        match self.value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
        .ok_or_else(|| self.ill_typed(right))
    }

    pub(super) fn seconds(&self) -> Result<Duration> {
        let seconds = self.number("a number of seconds")?;
        // A hundred years: far beyond any use, and within what clocks can add.
        if seconds > 0.0 && seconds <= 3.2e9 {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(self.invalid("must be a positive number of seconds"))
    }

    pub(super) fn count(&self) -> Result<u64> {
        let count = match self.value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => return Err(self.ill_typed("a whole number")),
        };
        count.ok_or_else(|| self.invalid("must be a whole number from 0 on"))
    }
}

/// TLS in py-amqp's words: `ssl` is true, or a dictionary of what Python's `ssl` calls these.
pub(super) struct TlsDraft {
    wanted: bool,
    options: TlsOptions,
    check_hostname: bool,
}

impl TlsDraft {
    /// Everything checked, if TLS is wanted at all.
    pub(super) fn new(wanted: bool) -> Self {
        Self { wanted, options: TlsOptions::default(), check_hostname: true }
    }

    /// Takes an option if it is one of TLS.
    pub(super) fn set(&mut self, option: &Given<'_>) -> Result<bool> {
        match (option.name, option.value) {
            ("ssl", Value::Object(members)) => {
                self.wanted = true;
                for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
                    self.member(&Given { name, value })?;
                }
            }
            ("ssl", _) => self.wanted = option.flag()?,
            ("server_hostname", _) => self.options.server_name = Some(option.text()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn member(&mut self, option: &Given<'_>) -> Result<()> {
        let options = &mut self.options;
        match option.name {
            "ca_certs" => options.ca_certs = Some(option.text()?.into()),
            "certfile" => options.certfile = Some(option.text()?.into()),
            "keyfile" => options.keyfile = Some(option.text()?.into()),
            "server_hostname" => options.server_name = Some(option.text()?),
            "check_hostname" => self.check_hostname = option.flag()?,
            "cert_reqs" => {
                let name = match option.value {
                    Value::Number(number) => number.to_string(),
                    _ => option.text()?,
                };
                options.verify = match name.trim_start_matches("CERT_") {
                    "REQUIRED" | "2" => Verify::Full,
                    // A server always shows a certificate, so an optional one is checked as well.
                    "OPTIONAL" | "1" => Verify::Full,
                    "NONE" | "0" => Verify::Nothing,
                    _ => {
                        return Err(option.invalid("must be ssl.CERT_REQUIRED or ssl.CERT_NONE"));
                    }
                };
            }
            _ => {
                return Err(option.invalid(
                    "is not supported in `ssl`: there are ca_certs, cert_reqs, certfile, \
                     check_hostname, keyfile and server_hostname",
                ));
            }
        }
        Ok(())
    }

    /// What is to be done, if anything.
    pub(super) fn finish(mut self) -> Option<TlsOptions> {
        if !self.check_hostname && self.options.verify == Verify::Full {
            self.options.verify = Verify::Chain;
        }
        self.wanted.then_some(self.options)
    }
}
