//! The options of TLS, in the words of Python's `ssl`.

use super::Given;
use crate::error::Result;
use crate::io::tls::{TlsOptions, Verify};
use serde_json::Value;

/// What options say about TLS, until all of them are known: `ssl` is true or false, or a dictionary.
#[derive(Debug)]
pub struct TlsDraft {
    /// Whether to speak TLS.
    pub wanted: bool,
    options: TlsOptions,
    check_hostname: bool,
}

impl TlsDraft {
    /// Everything checked, if TLS is wanted at all. With a `prefix` (`ssl_`), which all names but `ssl`
    /// have then, the members of the dictionary may also stand on their own.
    pub fn new(prefix: &'static str, wanted: bool) -> Self {
        let options = TlsOptions { prefix, ..TlsOptions::default() };
        Self { wanted, options, check_hostname: true }
    }

    /// Takes an option, if it is one of TLS.
    ///
    /// # Errors
    /// `Type` or `Invalid`, naming the option and what would be right.
    pub fn set(&mut self, option: &Given<'_>) -> Result<bool> {
        let prefix = self.options.prefix;
        if option.name != "ssl" {
            let alone = match prefix {
                "" => option.name == "server_hostname",
                prefix => option.name.starts_with(prefix),
            };
            return if alone { self.detail(option) } else { Ok(false) };
        }
        let Value::Object(members) = option.value else {
            self.wanted |= option.flag()?;
            return Ok(true);
        };
        self.wanted = true;
        for (name, value) in members.iter().filter(|(_, value)| !value.is_null()) {
            let member = option.member(name, value);
            if !self.detail(&member)? {
                let names = ["ca_certs", "ca_data", "ca_path", "cert_reqs", "certfile"];
                let others = ["check_hostname", "ciphers", "keyfile", "server_hostname"];
                let known = names.iter().chain(&others).map(|name| format!("{prefix}{name}"));
                let known: Vec<String> = known.collect();
                let known = known.join(", ");
                return Err(member.invalid(&format!("is not one of TLS: there are {known}")));
            }
        }
        Ok(true)
    }

    fn detail(&mut self, option: &Given<'_>) -> Result<bool> {
        let options = &mut self.options;
        let Some(name) = option.name.strip_prefix(options.prefix) else { return Ok(false) };
        match name {
            "cert_reqs" => options.verify = verify(option)?,
            "check_hostname" => self.check_hostname = option.flag()?,
            "server_hostname" => options.server_name = Some(option.non_empty()?),
            "ca_certs" => options.ca_certs = Some(option.non_empty()?.into()),
            "ca_path" => options.ca_path = Some(option.non_empty()?.into()),
            "ca_data" => options.ca_data = Some(option.non_empty()?),
            "min_version" | "tls_minimum_version" => {
                options.only_1_3 = version(option)? == Version::Tls13;
            }
            "tls_maximum_version" => {
                if version(option)? != Version::Tls13 {
                    return Err(
                        option.invalid("must be ssl.TLSVersion.TLSv1_3: it is always spoken")
                    );
                }
            }
            "ssl_version" => match option.value.as_i64() {
                // ssl.PROTOCOL_TLS and ssl.PROTOCOL_TLS_CLIENT.
                Some(2 | 16) => {}
                _ => {
                    return Err(option.invalid(
                        "must be ssl.PROTOCOL_TLS_CLIENT; TLS 1.3 alone is tls_minimum_version",
                    ));
                }
            },
            "ciphers" => {
                let names = option.non_empty()?;
                options.ciphers = Some(names.split(':').map(str::to_owned).collect());
                options.check()?;
            }
            "certfile" => options.certfile = Some(option.non_empty()?.into()),
            "keyfile" => options.keyfile = Some(option.non_empty()?.into()),
            // How Python's sockets behave: there are none.
            "do_handshake_on_connect" | "suppress_ragged_eofs" => drop(option.flag()?),
            "server_side" if option.flag()? => {
                return Err(option.invalid("must be false: this is the client"));
            }
            "validate_ocsp" | "validate_ocsp_stapled" if !option.flag()? => {}
            "server_side" => {}
            _ => match refused(name) {
                Some(why) => return Err(option.invalid(why)),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// What the options come to; `None` without TLS.
    pub fn finish(mut self) -> Option<TlsOptions> {
        if !self.check_hostname && self.options.verify == Verify::Full {
            self.options.verify = Verify::Chain;
        }
        self.wanted.then_some(self.options)
    }
}

/// Why an option of another library cannot be had.
fn refused(name: &str) -> Option<&'static str> {
    match name {
        "password" => Some(
            "is not supported: decrypt the key, for example with `openssl pkey -in KEY -out PLAIN`",
        ),
        "validate_ocsp" | "validate_ocsp_stapled" | "ocsp_context" | "ocsp_expected_cert" => {
            Some("is not supported: whether certificates were revoked is not asked with OCSP")
        }
        "include_verify_flags" | "exclude_verify_flags" => Some(
            "is not supported: they are flags of OpenSSL, which is not used; certificates are checked \
             strictly as it is",
        ),
        _ => None,
    }
}

/// By number or name, as Python's `ssl.VerifyMode` has it.
fn verify(option: &Given<'_>) -> Result<Verify> {
    let name = match option.value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.to_ascii_uppercase(),
        _ => String::new(),
    };
    match name.trim_start_matches("VERIFYMODE.").trim_start_matches("CERT_") {
        // For a client "optional" is as "required": servers always have a certificate.
        "REQUIRED" | "2" | "OPTIONAL" | "1" => Ok(Verify::Full),
        "NONE" | "0" => Ok(Verify::Nothing),
        _ => Err(option
            .invalid("must be 'required', 'optional' or 'none' (or ssl.CERT_REQUIRED and so on)")),
    }
}

#[derive(PartialEq, Eq)]
enum Version {
    /// 1.2, or older, which is never spoken.
    Tls12,
    Tls13,
}

/// A version by number or name, as Python's `ssl.TLSVersion` has it.
fn version(option: &Given<'_>) -> Result<Version> {
    let right = "ssl.TLSVersion.TLSv1_2 or ssl.TLSVersion.TLSv1_3";
    let name = match option.value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.trim_start_matches("TLSVersion.").to_owned(),
        _ => return Err(option.ill_typed(right)),
    };
    match name.as_str() {
        // -2 and -1: the oldest and the newest that there are.
        "TLSv1" | "TLSv1_1" | "TLSv1_2" | "MINIMUM_SUPPORTED" | "768" | "769" | "770" | "771"
        | "-2" => Ok(Version::Tls12),
        "TLSv1_3" | "MAXIMUM_SUPPORTED" | "772" | "-1" => Ok(Version::Tls13),
        _ => Err(option.invalid(&format!("must be {right}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn draft(prefix: &'static str, value: Value) -> Result<Option<TlsOptions>> {
        let mut draft = TlsDraft::new(prefix, false);
        draft.set(&Given { transport: "Test", name: "ssl", value: &value })?;
        Ok(draft.finish())
    }

    #[test]
    fn the_words_of_python_are_understood() {
        assert_eq!(draft("", json!(false)).unwrap(), None);
        let all = json!({
            "ca_certs": "ca.pem", "cert_reqs": 2, "certfile": "c.pem", "keyfile": "k.pem",
            "server_hostname": "name", "ciphers": "ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384", "tls_minimum_version": 772,
            "tls_maximum_version": 772, "ssl_version": 16, "do_handshake_on_connect": false,
            "suppress_ragged_eofs": true, "server_side": false, "keyfile_password": null,
        });
        let options = draft("", all).unwrap().unwrap();
        assert!(options.only_1_3 && options.verify == Verify::Full);
        assert_eq!(options.server_name.as_deref(), Some("name"));
        assert_eq!(options.ciphers.unwrap().len(), 2);
        for none in [json!("CERT_NONE"), json!(0), json!("none"), json!("VerifyMode.CERT_NONE")] {
            let options = draft("", json!({"cert_reqs": none})).unwrap().unwrap();
            assert_eq!(options.verify, Verify::Nothing);
        }
        let options = draft("ssl_", json!({"ssl_check_hostname": false})).unwrap().unwrap();
        assert_eq!(options.verify, Verify::Chain);
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        for (member, value, why) in [
            ("cert_reqs", json!(7), "'required', 'optional' or 'none'"),
            ("ssl_version", json!(3), "PROTOCOL_TLS_CLIENT"),
            ("tls_maximum_version", json!(771), "TLSv1_3"),
            ("tls_minimum_version", json!("SSLv2"), "TLSv1_2"),
            ("server_side", json!(true), "must be false"),
            ("password", json!("x"), "openssl pkey"),
            ("ca_certs", json!(""), "must not be empty"),
            ("ciphers", json!("ALL"), "ECDHE-RSA-AES128-GCM-SHA256"),
            ("colour", json!("red"), "there are ca_certs"),
        ] {
            let text = draft("", json!({member: value})).unwrap_err().to_string();
            assert!(text.contains(member) && text.contains(why), "{text}");
        }
    }
}
