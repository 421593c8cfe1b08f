//! The cases of `kombu_rs::testkit` over every transport: one test for each, named
//! `transport::group::promise`. Those that need an ability which a transport does not have are shown
//! as ignored. Redis is the server named by `KOMBU_RS_TEST_REDIS` (`host:port`); `make test` starts one.

use kombu_rs::io::identity;
use kombu_rs::testkit::{Broker, CASES, Case};
use kombu_rs::transport::{Url, schemes};
use libtest_mimic::{Arguments, Failed, Trial};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A broker of its own for each case, and what has to live as long.
type Start = fn() -> Result<(Broker, Option<Folder>), Failed>;

const TRANSPORTS: &[(&str, Start)] = &[
    ("memory", || Ok((broker("memory://", &[])?, None))),
    #[cfg(feature = "sqlite")]
    ("sqlite", || {
        let folder = Folder::new()?;
        let file = folder.0.join("broker.db");
        Ok((broker(&format!("sqla+sqlite:///{}", file.display()), &[])?, Some(folder)))
    }),
    #[cfg(feature = "redis")]
    ("redis", || {
        let server = std::env::var("KOMBU_RS_TEST_REDIS")
            .map_err(|_| "KOMBU_RS_TEST_REDIS must name a Redis server; `make test` starts one")?;
        let place = server.strip_prefix("redis://").unwrap_or(&server);
        let place = place.split('/').next().unwrap_or(place);
        let prefix = format!("conformance-{}-{}:", identity::unique(), number());
        Ok((broker(&format!("redis://{place}/2"), &[("global_keyprefix", &prefix)])?, None))
    }),
];

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

fn check(case: &Case, start: Start) -> Result<(), Failed> {
    let (broker, _folder) = start()?;
    Ok(case.check(&broker)?)
}

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for &(transport, start) in TRANSPORTS {
        // A transport that cannot be asked what it can do fails in each case.
        let capability = start().ok().map(|(broker, _folder)| broker.capability());
        for case in CASES {
            let applies = capability.is_none_or(|capability| (case.needs)(capability));
            let name = format!("{transport}::{}", case.name);
            trials.push(Trial::test(name, move || check(case, start)).with_ignored_flag(!applies));
        }
    }
    libtest_mimic::run(&arguments, trials).exit();
}
