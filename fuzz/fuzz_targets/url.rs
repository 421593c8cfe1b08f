//! A URL is taken apart or refused; what is shown of it is read as the same URL, without secrets.
#![no_main]

use kombu_rs::transport::Url;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = Url::parse_list(text);
    let Ok(url) = Url::parse(text) else { return };
    let again = Url::parse(&url.to_string()).expect("we wrote it");
    let masked = url.password.as_ref().map(|_| "**".to_owned());
    assert_eq!(again, Url { password: masked, query: Vec::new(), ..url });
});
