//! The cases of `kombu_rs::testkit` over every transport: one test for each, named
//! `transport::group::promise`. Those that need an ability which a transport does not have are shown
//! as ignored. Redis is the server named by `KOMBU_RS_TEST_REDIS`, those in
//! `KOMBU_RS_TEST_REDIS_OTHERS` (`name=url`, with spaces between): other versions, and servers that
//! refuse scripts, RESP3 or tracking; and the cluster that `KOMBU_RS_TEST_REDISCLUSTER` names a node
//! of. RabbitMQ is the node named by `KOMBU_RS_TEST_RABBITMQ`. `make test` starts them all.

use kombu_rs::error::Error;
use kombu_rs::io::identity;
use kombu_rs::testkit::{Broker, CASES, Case};
use kombu_rs::transport::{Url, schemes};
use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A broker of its own for each case, and what has to live as long.
type Start = Arc<dyn Fn() -> Result<(Broker, Option<Folder>), Failed> + Send + Sync>;

fn transports() -> Vec<(String, Start)> {
    let mut all: Vec<(String, Start)> =
        vec![("memory".to_owned(), Arc::new(|| Ok((broker("memory://", &[])?, None))))];
    #[cfg(feature = "sqlite")]
    all.push(("sqlite".to_owned(), Arc::new(sqlite)));
    #[cfg(feature = "redis")]
    {
        all.push(("redis".to_owned(), Arc::new(|| redis(&named_by("KOMBU_RS_TEST_REDIS")?))));
        all.push(("rediscluster".to_owned(), Arc::new(cluster)));
        match named_by("KOMBU_RS_TEST_REDIS_OTHERS") {
            Ok(others) => all.extend(others.split(' ').map(|other| {
                let (name, url) = other.split_once('=').unwrap_or((other, ""));
                let url = url.to_owned();
                (name.to_owned(), Arc::new(move || redis(&url)) as Start)
            })),
            // Not known by name: one that fails in each case.
            Err(_) => all.push((
                "redis-others".to_owned(),
                Arc::new(|| redis(&named_by("KOMBU_RS_TEST_REDIS_OTHERS")?)),
            )),
        }
    }
    #[cfg(feature = "amqp")]
    all.push(("amqp".to_owned(), Arc::new(|| Ok((amqp()?, None)))));
    all
}

#[cfg(feature = "sqlite")]
fn sqlite() -> Result<(Broker, Option<Folder>), Failed> {
    let folder = Folder::new()?;
    let file = folder.0.join("broker.db");
    Ok((broker(&format!("sqla+sqlite:///{}", file.display()), &[])?, Some(folder)))
}

#[cfg(feature = "redis")]
fn named_by(variable: &str) -> Result<String, Failed> {
    let named = std::env::var(variable);
    Ok(named.map_err(|_| format!("{variable} must name Redis servers; `make test` starts them"))?)
}

#[cfg(feature = "redis")]
fn redis(server: &str) -> Result<(Broker, Option<Folder>), Failed> {
    let place = server.strip_prefix("redis://").unwrap_or(server);
    let place = place.split('/').next().unwrap_or(place);
    let prefix = format!("conformance-{}-{}:", identity::unique(), number());
    Ok((broker(&format!("redis://{place}/2"), &[("global_keyprefix", &prefix)])?, None))
}

#[cfg(feature = "redis")]
fn cluster() -> Result<(Broker, Option<Folder>), Failed> {
    let url = named_by("KOMBU_RS_TEST_REDISCLUSTER")?;
    let tag = format!("conformance-{}-{}", identity::unique(), number());
    Ok((broker(&url, &[("hash_tag", &tag)])?, None))
}

#[cfg(feature = "amqp")]
fn amqp() -> Result<Broker, Failed> {
    let url = std::env::var("KOMBU_RS_TEST_RABBITMQ")
        .map_err(|_| "KOMBU_RS_TEST_RABBITMQ must name a RabbitMQ node; `make test` starts one")?;
    let url = Url::parse(&url)?;
    let mut options = schemes::Options::new();
    // The cases look at once for what they have published.
    options.insert("confirm_publish".into(), true.into());
    let connect = move || match schemes::connect(&url, &options)? {
        Some(connection) => Ok(connection),
        None => Err(Error::invalid("the URL of a broker that speaks AMQP is needed")),
    };
    Ok(Broker::speaking_amqp(Arc::new(connect)))
}

fn number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn broker(url: &str, options: &[(&str, &str)]) -> Result<Broker, Failed> {
    let url = Url::parse(url)?;
    let options: schemes::Options =
        options.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    Ok(Broker::over_stores(Arc::new(move || schemes::open(&url, &options)))?)
}

/// A directory that goes away with the test.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let name = format!("kombu-conformance-{}-{}", identity::unique(), number());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn check(case: &Case, start: &Start) -> Result<(), Failed> {
    let (broker, _folder) = start()?;
    Ok(case.check(&broker)?)
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for (transport, start) in transports() {
        // A transport that cannot be asked what it can do fails in each case.
        let capability = start().ok().map(|(broker, _folder)| broker.capability());
        for case in CASES {
            let applies = capability.is_none_or(|capability| (case.needs)(capability));
            let name = format!("{transport}::{}", case.name);
            let start = start.clone();
            trials.push(Trial::test(name, move || check(case, &start)).with_ignored_flag(!applies));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
