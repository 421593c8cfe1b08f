use super::*;
use bytes::Bytes;
use serde_json::{Value as Json, json};

fn parse(url: &str, options: Json) -> Result<Config> {
    let Json::Object(options) = options else { panic!("not an object") };
    Config::parse(&Url::parse(url)?, &options)
}

fn error(url: &str, options: Json) -> String {
    parse(url, options).unwrap_err().to_string()
}

fn at(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.into(), port }
}

#[test]
fn all_keys_begin_with_a_tag() {
    for (options, queue) in [
        (json!({}), "{kombu}q"),
        (json!({"hash_tag": "app"}), "{app}q"),
        (json!({"hash_tag": "{app}", "global_keyprefix": "P:"}), "{app}P:q"),
        (json!({"global_keyprefix": "P:{mine}:"}), "P:{mine}:q"),
        (json!({"global_keyprefix": "P:{mine}:", "hash_tag": "app"}), "{app}P:{mine}:q"),
        // Without anything in it, or without an end, it is none.
        (json!({"global_keyprefix": "{}x{y}"}), "{kombu}{}x{y}q"),
        (json!({"global_keyprefix": "a{b"}), "{kombu}a{bq"),
    ] {
        let config = parse("rediscluster://h", options.clone()).unwrap();
        assert_eq!(config.lists("q")[0], queue, "{options}");
        let head = queue.strip_suffix('q').unwrap();
        assert_eq!(config.unacked(), format!("{head}unacked"));
        assert_eq!(config.binding_set("ex"), format!("{head}_kombu.binding.ex"));
        assert_eq!(config.topics("fx", ""), [format!("{head}/0.fx")]);
    }
    assert_eq!(parse("redis://h", json!({})).unwrap().lists("q")[0], "q");
}

#[test]
fn options_say_whom_to_ask() {
    let config = parse("rediscluster://h:7000", json!({})).unwrap();
    assert_eq!(config.cluster.unwrap().nodes(), [at("h", 7000)]);
    let options = json!({"startup_nodes": [["a", 1], ["b", 2]]});
    let config = parse("redisclusters://me:pw@h/0", options).unwrap();
    assert!(config.dial.tls.is_some());
    let cluster = config.cluster.unwrap();
    assert_eq!(cluster.nodes(), [at("a", 1), at("b", 2)]);
    cluster.ask_first(at("b", 2));
    assert_eq!(cluster.nodes(), [at("b", 2), at("a", 1)]);
    cluster.ask_first(at("c", 3));
    cluster.doubt();
    assert_eq!(cluster.nodes(), [at("b", 2), at("c", 3), at("a", 1)]);
}

#[test]
fn errors_say_what_would_be_right() {
    assert!(error("rediscluster://h/1", json!({})).contains("database 0 only, not 1"));
    for tag in ["", "{}", "a{b}", "}"] {
        assert!(error("rediscluster://h", json!({"hash_tag": tag})).contains("'hash_tag'"));
    }
    assert!(error("rediscluster+socket:///tmp/s", json!({})).contains("names a socket"));
    assert!(error("rediscluster://h", json!({"startup_nodes": "h"})).contains("startup_nodes"));
    for option in ["hash_tag", "startup_nodes", "sharded_fanout"] {
        let text = error("redis://h", json!({option: "x"}));
        assert!(text.contains(option) && text.contains("rediscluster://"), "{text}");
    }
}

#[test]
fn sharded_channels_have_no_patterns() {
    let sharded = json!({"sharded_fanout": true});
    assert!(error("rediscluster://h", sharded).contains("fanout_patterns=False"));
    let options = json!({"sharded_fanout": true, "fanout_patterns": false});
    let config = parse("rediscluster://h", options).unwrap();
    assert_eq!(config.topic_patterns("f*x", "a.#"), ["{kombu}/0.f*x"]);
    let commands = [config.publish_command(), config.subscribe_command()];
    assert_eq!(commands, ["SPUBLISH", "SSUBSCRIBE"]);
    let classic = parse("rediscluster://h", json!({})).unwrap();
    assert_eq!(classic.topic_patterns("f*x", "a.#"), ["{kombu}/0.f\\*x/a.*"]);
}

#[test]
fn redirections_are_read() {
    let from = at("10.0.0.9", 7000);
    let of = |text: &'static str| Redirect::of(&ServerError::new(text), &from);
    assert_eq!(of("MOVED 3999 10.0.0.1:7001"), Some(Redirect::Moved(at("10.0.0.1", 7001))));
    assert_eq!(of("MOVED 3999 :7001"), Some(Redirect::Moved(at("10.0.0.9", 7001))));
    assert_eq!(of("ASK 3999 fe80::1:7001"), Some(Redirect::Ask(at("fe80::1", 7001))));
    assert_eq!(of("TRYAGAIN Multiple keys request"), Some(Redirect::Later));
    assert_eq!(of("MOVED"), None);
    assert_eq!(of("ERR no"), None);
}

fn text(text: &str) -> Value {
    Value::Bulk(Bytes::copy_from_slice(text.as_bytes()))
}

fn member(host: Value, port: i64, names: &[&str]) -> Value {
    let names = names.iter().copied().map(text).collect();
    Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(names)])
}

#[test]
fn nodes_have_several_kinds_of_names() {
    let from = at("nat.example", 7000);
    let ranges = [
        Value::Array(vec![
            Value::Int(0),
            Value::Int(99),
            member(text("10.0.0.1"), 7001, &[]),
            member(text("10.0.0.2"), 7002, &[]),
        ]),
        Value::Array(vec![Value::Int(100), Value::Int(199), member(Value::Null, 7003, &[])]),
        Value::Array(vec![
            Value::Int(200),
            Value::Int(300),
            member(text("?"), 7004, &["ip", "10.0.0.4"]),
        ]),
    ];
    let (master, nodes) = read(&ranges, 99, &from);
    assert_eq!(master, Some(at("10.0.0.1", 7001)));
    let all =
        [at("10.0.0.1", 7001), at("10.0.0.2", 7002), at("nat.example", 7003), at("10.0.0.4", 7004)];
    assert_eq!(nodes, all);
    assert_eq!(read(&ranges, 100, &from).0, Some(at("nat.example", 7003)));
    assert_eq!(read(&ranges, 300, &from).0, Some(at("10.0.0.4", 7004)));
    assert_eq!(read(&ranges, 301, &from).0, None);
}
