use super::*;
use crate::io::tls::{TlsOptions, Verify};
use serde_json::json;

fn parse(url: &str, options: Value) -> Result<Config> {
    let Value::Object(options) = options else { panic!("not an object") };
    Config::parse(&Url::parse(url).unwrap(), &options)
}

fn error(url: &str, options: Value) -> String {
    parse(url, options).unwrap_err().to_string()
}

#[test]
fn a_plain_url_has_kombus_defaults() {
    let config = parse("redis://", json!({})).unwrap();
    assert_eq!(config.address.to_string(), "localhost:6379");
    assert_eq!((config.db, config.visibility_timeout.as_secs()), (0, 3600));
    assert_eq!(config.priority_steps, [0, 3, 6, 9]);
    assert_eq!((config.sep.as_str(), config.fanout_prefix.as_str()), ("\x06\x16", "/0."));
    assert!(config.dial.tls.is_none() && config.dial.keepalive.is_some());
}

#[test]
fn a_full_url() {
    let config =
        parse("redis://me:s3cret@10.0.0.1:7000/5?socket_timeout=2.5&fanout_patterns=no", json!({}))
            .unwrap();
    assert_eq!((config.address.to_string().as_str(), config.db), ("10.0.0.1:7000", 5));
    assert_eq!(config.reply_timeout, Duration::from_millis(2500));
    assert!(!config.fanout_patterns);
    assert_eq!(config.password.as_deref(), Some("s3cret"));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn sockets() {
    let config = parse("redis+socket:///tmp/redis.sock?virtual_host=3", json!({})).unwrap();
    assert_eq!((config.address, config.db), (Address::Unix("/tmp/redis.sock".into()), 3));
    assert!(error("redis+socket://", json!({})).contains("redis+socket:///path"));
}

#[test]
fn kombus_options_are_taken() {
    let config = parse(
        "redis://h",
        json!({
            "priority_steps": [9, 0], "sep": ":", "global_keyprefix": "app:", "fanout_prefix": "/x{db}.",
            "socket_keepalive_options": {"4": 60, "TCP_KEEPCNT": 2, "18": 7000},
            "max_connections": 20,
            "visibility_timeout": 6, "socket_timeout": null, "unacked_restore_limit": 7,
        }),
    )
    .unwrap();
    assert_eq!(config.priority_steps, [0, 9]);
    assert_eq!(config.fanout_prefix, "/x0.");
    let keepalive = config.dial.keepalive.unwrap();
    assert_eq!((keepalive.idle.as_secs(), keepalive.count), (60, 2));
    assert_eq!(config.dial.user_timeout, Some(Duration::from_secs(7)));
    assert_eq!((config.restore_interval.as_secs(), config.restore_limit), (2, Some(7)));
    assert_eq!(config.max_connections, Some(20));
}

#[test]
fn bad_options_are_named() {
    let text = error("redis://", json!({"visibilty_timeout": 1}));
    assert!(
        text.contains("\"visibilty_timeout\"") && text.contains(" visibility_timeout"),
        "{text}"
    );
    for (options, word) in [
        (json!({"visibility_timeout": "soon"}), "a number of seconds, not a text"),
        (json!({"visibility_timeout": 0}), "positive"),
        (json!({"socket_timeout": -1}), "positive"),
        (json!({"priority_steps": "0,3"}), "a list of whole numbers"),
        (json!({"priority_steps": []}), "1 to 256"),
        (json!({"sep": ""}), "not be empty"),
        (json!({"ack_emulation": "maybe"}), "true or false"),
        (json!({"master_name": "mymaster"}), "sentinel://"),
        (json!({"queue_order_strategy": "random"}), "'round_robin', 'priority' or 'sorted'"),
        (json!({"keyprefix_queue": "bindings"}), "one %s"),
        (json!({"min_binding_ttl": 0}), "positive number of milliseconds"),
        (
            json!({"socket_keepalive_options": {"9999": 1}}),
            "TCP_USER_TIMEOUT, which \"9999\" is not",
        ),
        (json!({"ssl": {"ssl_cert_reqs": "perhaps"}}), "'required', 'optional' or 'none'"),
        (json!({"ssl": {"ssl_colour": "red"}}), "not one of TLS"),
        (json!({"ssl_min_version": "SSLv2"}), "TLSv1_3"),
        (json!({"ssl_password": "x"}), "openssl pkey"),
        (json!({"ssl_validate_ocsp": true}), "OCSP"),
        (json!({"ssl_include_verify_flags": [8]}), "OpenSSL"),
        (json!({"health_check_interval": -1}), "positive"),
        (json!({"max_connections": -1}), "from 1 on"),
        (json!({"unacked_restore_limit": -1}), "from 0 on"),
        (json!({"client_name": "a b"}), "without spaces and newlines, not \"a b\""),
        (json!({"client_name": "a\nb"}), "visible ASCII"),
        (json!({"credential_provider": "a.B"}), "argument of the connection"),
        (json!({"reconnect_grace": "long"}), "a number of seconds"),
    ] {
        let name = options.as_object().unwrap().keys().next().unwrap().clone();
        let text = error("redis://", options);
        assert!(text.contains(word), "{text}");
        assert!(text.contains(&name), "{text}");
    }
    assert!(error("redis://h/mydb", json!({})).contains("\"mydb\""));
}

#[test]
fn tls() {
    let options = json!({"ssl": {"ssl_cert_reqs": 0}});
    assert!(parse("redis://h", options).unwrap().dial.tls.is_some());
    assert!(parse("rediss://h?ssl_cert_reqs=none", json!({})).unwrap().dial.tls.is_some());
    // As redis-py spells them.
    let options = json!({
        "ssl_cert_reqs": 1, "ssl_ca_certs": "ca.pem", "ssl_ca_path": "/ca", "ssl_ca_data": "PEM",
        "ssl_certfile": "c.pem", "ssl_keyfile": "k.pem", "ssl_check_hostname": false,
        "ssl_min_version": 772, "ssl_ciphers": "ECDHE-RSA-AES128-GCM-SHA256", "ssl_validate_ocsp": false,
        "ssl_validate_ocsp_stapled": false, "ssl_password": null,
    });
    let tls = parse("rediss://h", options).unwrap().dial.tls.unwrap();
    let expected = TlsOptions {
        prefix: "ssl_",
        verify: Verify::Chain,
        ca_certs: Some("ca.pem".into()),
        ca_path: Some("/ca".into()),
        ca_data: Some("PEM".into()),
        certfile: Some("c.pem".into()),
        keyfile: Some("k.pem".into()),
        only_1_3: true,
        ciphers: Some(vec!["ECDHE-RSA-AES128-GCM-SHA256".into()]),
        server_name: None,
    };
    assert_eq!(tls, expected);
}

#[test]
fn health_checks_may_be_off() {
    let interval = |options| parse("redis://h", options).unwrap().health_check_interval;
    assert_eq!(interval(json!({})), Some(Duration::from_secs(25)));
    assert_eq!(interval(json!({"health_check_interval": 0})), None);
}

#[test]
fn nothing_may_mean_any_number_or_none() {
    let config =
        parse("redis://h", json!({"max_connections": 0, "unacked_restore_limit": 0})).unwrap();
    assert_eq!((config.max_connections, config.restore_limit), (None, Some(0)));
}

#[test]
fn what_has_no_effect_is_documented() {
    let text = include_str!("../../../docs/transports.md");
    let (_, table) = text.split_once("\nWithout effect, and why:\n").unwrap();
    let (table, _) = table.split_once("\n#").unwrap();
    let mut documented: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(" | ").next())
        .flat_map(|names| names.split(", ").map(|name| name.trim_matches('`')))
        .collect();
    documented.sort_unstable();
    assert_eq!(documented, WITHOUT_EFFECT);
}

#[test]
fn sentinels_have_options_of_their_own() {
    let own = json!({
        "password": "x", "health_check_interval": 3, "retry_on_timeout": true, "client_name": "x",
        "socket_keepalive": true, "socket_keepalive_options": {"TCP_KEEPIDLE": 5},
    });
    let config = parse("sentinel://h", json!({"master_name": "m", "sentinel_kwargs": own}));
    let keepalive = config.unwrap().sentinels.unwrap().dial.keepalive.unwrap();
    assert_eq!(keepalive.idle.as_secs(), 5);
}
