//! What is in a message comes back as it was.

use super::Broker;
use super::broker::message;
use crate::error::Result;
use crate::model::{Json, Message};
use bytes::Bytes;
use serde_json::Value;

async fn there_and_back(broker: &Broker, messages: Vec<Message>) -> Result<Vec<Message>> {
    let peer = broker.open().await?;
    let mut back = Vec::with_capacity(messages.len());
    for message in messages {
        let queue = message.properties.routing_key.clone();
        peer.declare(&queue).await?;
        peer.channel.publish(vec![message]).await?;
        let delivery = peer.channel.get(&queue, false).await?.expect("just published");
        peer.channel.ack(&delivery.claim.tag, false).await?;
        back.push(delivery.message);
    }
    peer.close().await?;
    Ok(back)
}

/// Empty, text of all planes, and all bytes.
pub async fn bytes_of_every_kind_come_back(broker: &Broker) -> Result<()> {
    let queue = broker.name("kinds of bytes é");
    let bodies: [Bytes; 4] = [
        Bytes::new(),
        "αβγ \u{1f407} \"quoted\" \\ \u{0} \r\n".into(),
        (0..=255u8).collect::<Vec<_>>().into(),
        vec![0xff; 7].into(),
    ];
    let sent = bodies.iter().map(|body| {
        let mut sent = message(&queue, "");
        sent.body = body.clone();
        sent
    });
    let back = there_and_back(broker, sent.collect()).await?;
    for (body, back) in bodies.iter().zip(back) {
        assert_eq!(back.body, *body);
    }
    Ok(())
}

/// 1 MiB.
pub async fn a_large_body_comes_back(broker: &Broker) -> Result<()> {
    let mut sent = message(&broker.name("large"), "");
    let body: Vec<u8> = (0..1u32 << 20).map(|n| (n % 251) as u8).collect();
    sent.body = body.into();
    let back = there_and_back(broker, vec![sent.clone()]).await?;
    assert!(back[0].body == sent.body, "{} bytes came back", back[0].body.len());
    Ok(())
}

/// Content type, headers and properties.
pub async fn headers_and_properties_come_back(broker: &Broker) -> Result<()> {
    let queue = broker.name("headers");
    let headers = r#"{"task": "a.b", "n": [1, -2.5, null, true, LARGE],
        "ключ": "\u00fc \ud83d\udc07 \" \\ \n", "deep": {"er": {"": []}}}"#;
    let large = if broker.is_amqp() { "-1234567890123456789" } else { "12345678901234567890" };
    let headers = headers.replace("LARGE", large);
    let properties = r#"{"correlation_id": "1-2", "reply_to": "ü", "delivery_mode": 2}"#;
    let mut full = message(&queue, "x");
    full.content_type = Some("application/x-ö".into());
    full.headers = Json::from_valid(headers);
    full.properties.extra = Json::from_valid(properties);
    full.properties.priority = Some(3);
    full.properties.expiration = Some(600_000);
    let mut bare = message(&queue, "y");
    bare.content_type = None;
    bare.content_encoding = None;
    let back = there_and_back(broker, vec![full.clone(), bare.clone()]).await?;
    let value = |json: &Json| serde_json::from_slice::<Value>(json.as_bytes()).expect("JSON");
    for (sent, back) in [full, bare].iter().zip(&back) {
        assert_eq!(back.content_type, sent.content_type);
        assert_eq!(back.content_encoding, sent.content_encoding);
        assert_eq!(value(&back.headers), value(&sent.headers));
        assert_eq!(value(&back.properties.extra), value(&sent.properties.extra));
        assert_eq!(back.properties.priority, sent.properties.priority);
        assert_eq!(back.properties.expiration, sent.properties.expiration);
        assert_eq!(back.properties.routing_key, sent.properties.routing_key);
        if !broker.is_amqp() {
            assert_eq!(back.properties.delivery_tag, sent.properties.delivery_tag);
        }
        assert!(!back.redelivered);
    }
    Ok(())
}
