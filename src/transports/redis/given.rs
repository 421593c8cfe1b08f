//! Options as they are given, in Python or as text in a URL's query, and what is read from them.

use super::keys::Template;
use crate::error::{Error, Result};
use crate::io::dial::Keepalive;
use crate::io::tls::{TlsOptions, Verify};
use serde_json::Value;
use std::time::Duration;

/// One option as given: in Python, or as text in a URL's query.
pub(super) struct Given<'a> {
    pub(super) name: &'a str,
    pub(super) value: &'a Value,
}

impl Given<'_> {
    pub(super) fn invalid(&self, what: &str) -> Error {
        Error::invalid(format!("the Redis transport option '{}' {what}", self.name))
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
            "the Redis transport option '{}' must be {right}, not {kind}",
            self.name
        ))
    }

    pub(super) fn text(&self) -> Result<String> {
        self.value.as_str().map(str::to_owned).ok_or_else(|| self.ill_typed("a text"))
    }

    pub(super) fn non_empty(&self) -> Result<String> {
        match self.text()? {
            text if text.is_empty() => Err(self.invalid("must not be empty")),
            text => Ok(text),
        }
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
        let right = "a number of seconds";
        let seconds = self.number(right)?;
        // A hundred years: far beyond any use, and within what clocks can add.
        if seconds > 0.0 && seconds <= 3.2e9 {
            return Ok(Duration::from_secs_f64(seconds));
        }
        Err(self.invalid("must be a positive number of seconds"))
    }

    /// A number of seconds that may be zero: then, as short as makes sense.
    pub(super) fn pause(&self) -> Result<Duration> {
        const SHORTEST: Duration = Duration::from_millis(10);
        if self.number("a number of seconds")? == 0.0 {
            return Ok(SHORTEST);
        }
        Ok(self.seconds()?.max(SHORTEST))
    }

    /// As [`Given::seconds`]; 0 is `None`.
    pub(super) fn seconds_or_none(&self) -> Result<Option<Duration>> {
        match self.number("a number of seconds")? {
            0.0 => Ok(None),
            _ => self.seconds().map(Some),
        }
    }

    pub(super) fn milliseconds(&self) -> Result<Duration> {
        let milliseconds = self.number("a number of milliseconds")?;
        if milliseconds > 0.0 && milliseconds <= 3.2e12 {
            return Ok(Duration::from_secs_f64(milliseconds / 1000.0));
        }
        Err(self.invalid("must be a positive number of milliseconds"))
    }

    /// A text with one `%s`, which stands for an exchange.
    pub(super) fn template(&self) -> Result<Template> {
        let text = self.text()?;
        match text.split_once("%s") {
            Some((head, tail)) if !tail.contains("%s") => Ok(Template::new(head, tail)),
            _ => Err(self.invalid("must have one %s, which stands for the exchange")),
        }
    }

    /// A whole number from 1 on; `right` says of what.
    pub(super) fn count(&self, right: &str) -> Result<usize> {
        let number = self.number(right)?;
        if (1.0..=1e9).contains(&number) && number.fract() == 0.0 {
            return Ok(number as usize);
        }
        Err(self.invalid("must be a whole number from 1 on"))
    }

    /// A whole number from 0 on.
    pub(super) fn whole(&self) -> Result<u64> {
        let right = "a whole number";
        let number = self.number(right)?;
        if (0.0..=1e9).contains(&number) && number.fract() == 0.0 {
            return Ok(number as u64);
        }
        Err(self.invalid("must be a whole number from 0 on"))
    }

    pub(super) fn steps(&self) -> Result<Vec<i64>> {
        let right = "a list of whole numbers like [0, 3, 6, 9]";
        let items = self.value.as_array().ok_or_else(|| self.ill_typed(right))?;
        let mut steps = items
            .iter()
            .map(|item| item.as_i64().ok_or_else(|| self.ill_typed(right)))
            .collect::<Result<Vec<_>>>()?;
        steps.sort_unstable();
        steps.dedup();
        if steps.is_empty() || steps.len() > 256 {
            return Err(self.invalid("must have 1 to 256 steps"));
        }
        Ok(steps)
    }

    /// A dictionary of socket option numbers or names, as redis-py takes it.
    pub(super) fn keepalive(&self, keepalive: &mut Keepalive) -> Result<()> {
        let right = "a dictionary of TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT";
        let members = self.value.as_object().ok_or_else(|| self.ill_typed(right))?;
        for (name, value) in members {
            let Some(number) =
                value.as_u64().and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
            else {
                return Err(self.invalid(&format!("must have a positive number for {name}")));
            };
            let seconds = Duration::from_secs(number.into());
            match (name.as_str(), name.parse()) {
                ("TCP_KEEPIDLE", _) | (_, Ok(libc::TCP_KEEPIDLE)) => keepalive.idle = seconds,
                ("TCP_KEEPINTVL", _) | (_, Ok(libc::TCP_KEEPINTVL)) => keepalive.interval = seconds,
                ("TCP_KEEPCNT", _) | (_, Ok(libc::TCP_KEEPCNT)) => keepalive.count = number,
                _ => return Err(self.ill_typed(right)),
            }
        }
        Ok(())
    }
}

/// Whether TLS 1.3 is the oldest version: as Python's `ssl.TLSVersion` has it, by number or name.
fn only_1_3(option: &Given<'_>) -> Result<bool> {
    let right = "ssl.TLSVersion.TLSv1_2 or ssl.TLSVersion.TLSv1_3";
    match option.value {
        // Negative: the oldest and the newest that there are.
        Value::Number(number) => match number.as_i64() {
            Some(-2 | 768..=771) => Ok(false),
            Some(-1 | 772) => Ok(true),
            _ => Err(option.invalid(&format!("must be {right}"))),
        },
        Value::String(text) => match text.trim_start_matches("TLSVersion.") {
            "TLSv1" | "TLSv1_1" | "TLSv1_2" | "MINIMUM_SUPPORTED" => Ok(false),
            "TLSv1_3" | "MAXIMUM_SUPPORTED" => Ok(true),
            number if number.parse() == Ok(771) => Ok(false),
            number if number.parse() == Ok(772) => Ok(true),
            _ => Err(option.invalid(&format!("must be {right}"))),
        },
        _ => Err(option.ill_typed(right)),
    }
}

/// The options of TLS, `ssl` and `ssl_...`.
pub(super) struct TlsDraft {
    /// Whether to speak TLS.
    pub(super) wanted: bool,
    options: TlsOptions,
    check_hostname: bool,
}

impl Default for TlsDraft {
    fn default() -> Self {
        Self { wanted: false, options: TlsOptions::default(), check_hostname: true }
    }
}

impl TlsDraft {
    /// Takes an option, if it is one of TLS.
    pub(super) fn set(&mut self, option: &Given<'_>) -> Result<bool> {
        if option.name != "ssl" {
            return if option.name.starts_with("ssl_") { self.detail(option) } else { Ok(false) };
        }
        let Value::Object(members) = option.value else {
            self.wanted |= option.flag()?;
            return Ok(true);
        };
        self.wanted = true;
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            let option = Given { name, value };
            if !self.detail(&option)? {
                return Err(option.invalid("is not one of TLS"));
            }
        }
        Ok(true)
    }

    fn detail(&mut self, option: &Given<'_>) -> Result<bool> {
        match option.name {
            "ssl_cert_reqs" => {
                self.options.verify = match option.value {
                    // For a client "optional" is as "required": servers always have a certificate.
                    Value::Number(number) if matches!(number.as_i64(), Some(1 | 2)) => Verify::Full,
                    Value::Number(number) if number.as_i64() == Some(0) => Verify::Nothing,
                    Value::String(text) => match text.as_str() {
                        "required" | "CERT_REQUIRED" | "optional" | "CERT_OPTIONAL" => Verify::Full,
                        "none" | "CERT_NONE" => Verify::Nothing,
                        _ => return Err(option.invalid("must be 'required', 'optional' or 'none'")),
                    },
                    _ => return Err(option.invalid("must be 'required', 'optional' or 'none'")),
                }
            }
            "ssl_check_hostname" => self.check_hostname = option.flag()?,
            "ssl_ca_certs" => self.options.ca_certs = Some(option.non_empty()?.into()),
            "ssl_ca_path" => self.options.ca_path = Some(option.non_empty()?.into()),
            "ssl_ca_data" => self.options.ca_data = Some(option.non_empty()?),
            "ssl_min_version" => self.options.only_1_3 = only_1_3(option)?,
            "ssl_ciphers" => {
                let names = option.non_empty()?;
                self.options.ciphers = Some(names.split(':').map(str::to_owned).collect());
            }
            "ssl_password" => {
                return Err(option.invalid(
                    "is not supported: decrypt the key, for example with `openssl pkey -in KEY -out PLAIN`",
                ));
            }
            "ssl_validate_ocsp" | "ssl_validate_ocsp_stapled" if !option.flag()? => {}
            "ssl_validate_ocsp"
            | "ssl_validate_ocsp_stapled"
            | "ssl_ocsp_context"
            | "ssl_ocsp_expected_cert" => {
                return Err(option.invalid(
                    "is not supported: whether certificates were revoked is not asked with OCSP",
                ));
            }
            "ssl_include_verify_flags" | "ssl_exclude_verify_flags" => {
                return Err(option.invalid(
                    "is not supported: they are flags of OpenSSL, which is not used; certificates \
                     are checked strictly as it is",
                ));
            }
            "ssl_certfile" => self.options.certfile = Some(option.non_empty()?.into()),
            "ssl_keyfile" => self.options.keyfile = Some(option.non_empty()?.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What the options come to; `None` without TLS.
    pub(super) fn finish(mut self) -> Option<TlsOptions> {
        if !self.check_hostname && self.options.verify == Verify::Full {
            self.options.verify = Verify::Chain;
        }
        self.wanted.then_some(self.options)
    }
}
