//! Which transport options `memory://` takes: those of all other transports, without effect, as programs
//! pass what is meant for their real broker in tests.

use crate::error::{Error, Result};
use crate::transport::schemes::Options;

/// Settings of TLS are many, and named as those of their brokers' clients.
const TLS: &str = "ssl_";

const OF_OTHERS: [&str; 137] = [
    "ack_deadline_seconds",
    "ack_emulation",
    "ack_modify_batch_size",
    "authentication",
    "body_encoding",
    "broadcast_collection",
    "bulk_max_messages",
    "busy_timeout",
    "calc_queue_size",
    "capped_queue_size",
    "channel_max",
    "client_name",
    "client_properties",
    "confirm_publish",
    "conn_string",
    "connect_retries_timeout",
    "connect_timeout",
    "connection_errors",
    "connection_wait_time_seconds",
    "consumer_timeout",
    "control_folder",
    "credential_provider",
    "data_folder_in",
    "data_folder_out",
    "dead_letter_queue",
    "deadletter_queue",
    "default_database",
    "delivery_limit",
    "driver_type",
    "enable_exactly_once_delivery",
    "endpoint_url",
    "errback",
    "expiration_seconds",
    "failover_strategy",
    "fanout_patterns",
    "fanout_prefix",
    "fetch_message_attributes",
    "fifo_mode",
    "frame_max",
    "global_keyprefix",
    "hash_tag",
    "health_check_interval",
    "heartbeat",
    "init_extension",
    "insist",
    "interval_max",
    "interval_start",
    "interval_step",
    "is_secure",
    "kafka_admin_config",
    "kafka_common_config",
    "kafka_consumer_config",
    "kafka_producer_config",
    "keyprefix_binding_deadlines",
    "keyprefix_binding_permanent",
    "keyprefix_fanout",
    "keyprefix_queue",
    "legacy_keyprefix_fanout",
    "locale",
    "login_method",
    "login_response",
    "master_name",
    "max_connections",
    "max_lock_renewal_duration",
    "max_retries",
    "message_tablename",
    "messages_collection",
    "min_binding_ttl",
    "min_other_sentinels",
    "notify_throttle_interval_ms",
    "num_partitions",
    "peek_lock_seconds",
    "poll_interval_ms",
    "polling_interval",
    "pool_size",
    "pool_timeout",
    "predefined_exchanges",
    "predefined_queues",
    "priority_steps",
    "processed_folder",
    "publish_timeout",
    "queue_name_prefix",
    "queue_order_strategy",
    "queue_tablename",
    "queue_tags",
    "queues_collection",
    "read_timeout",
    "reauth_check_interval",
    "reconnect_grace",
    "region",
    "regioninfo",
    "renew_leases",
    "replication_factor",
    "retry_backoff_factor",
    "retry_backoff_max",
    "retry_errback",
    "retry_on_timeout",
    "retry_policy",
    "retry_timeout_seconds",
    "retry_total",
    "routing_collection",
    "sasl_mechanism",
    "security_protocol",
    "sentinel_fanout_compat",
    "sentinel_kwargs",
    "sentinels",
    "sep",
    "server_hostname",
    "sharded_fanout",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_keepalive_options",
    "socket_settings",
    "socket_timeout",
    "ssl",
    "startup_nodes",
    "store_processed",
    "sts_role_arn",
    "sts_token_buffer_time",
    "sts_token_timeout",
    "supports_fanout",
    "synchronous",
    "topic_config",
    "ttl",
    "uamqp_keep_alive_interval",
    "unacked_index_key",
    "unacked_key",
    "unacked_mutex_expire",
    "unacked_mutex_key",
    "unacked_restore_interval",
    "unacked_restore_limit",
    "unacked_restore_throttle",
    "use_lock_renewal",
    "use_notify",
    "visibility_timeout",
    "wait_time_seconds",
    "write_timeout",
];

/// Whether all options are some transport's.
///
/// # Errors
/// `Invalid` naming the first one that nobody knows.
pub(super) fn check(options: &Options) -> Result<()> {
    let known = |name: &str| OF_OTHERS.contains(&name) || name.starts_with(TLS);
    match options.keys().find(|name| !known(name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "the memory transport knows no option {name:?}; it takes those of the other transports, \
             which have no effect here"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_others_are_taken_and_no_unknown_ones() {
        let check = |name: &str| check(&Options::from_iter([(name.to_owned(), 1.into())]));
        for name in ["visibility_timeout", "confirm_publish", "busy_timeout", "ssl_ca_certs"] {
            check(name).unwrap();
        }
        let error = check("visibility_timout").unwrap_err();
        assert!(error.to_string().contains("no option \"visibility_timout\""), "{error}");
        assert!(OF_OTHERS.is_sorted());
    }
}
