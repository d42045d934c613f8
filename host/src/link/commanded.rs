//! A revision that was put in by command holds over starts, for as long as the configuration names the same files as then
//! (L11). Other files are another word of the operator's, and the newer one: then the configuration says what runs.
//!
//! ```text
//!   exchange:  bytes --> target | all links stand | record | the host's own mind | links go
//!   start:     files, record --> what runs --> links held --> the record is still so? --> streams
//! ```
//!
//! The database says so before the host does, so that no row is written by a revision that a restart would not know of.
//! Whatever is loaded from there is compiled only if its digest is the one of the record.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::running::{Revision, is_same};
use crate::apply::commanded::{self, Record};
use crate::config::Settings;
use crate::pg::address::Address;
use crate::pg::session::Session;
use crate::problem::{Blame, Outcome, Problem};
use crate::transform::Artifact;

/// How long the record may take while every link stands.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a host begins with.
pub struct Beginning {
    /// What runs.
    pub revision: Revision,
    /// What ran before it, if the record knows.
    pub before: Option<Revision>,
    /// What is kept of it.
    pub commanded: Commanded,
}

/// What was put in by command, as this host knows it.
pub struct Commanded {
    settings: Settings,
    state: Mutex<State>,
}

struct State {
    /// The configuration's artifacts, each at its place.
    configured: Vec<Arc<Artifact>>,
    /// What the database should say.
    record: Option<Record>,
    /// What it said when this host began; `None`: this host holds the links, and nobody else writes there.
    found: Option<Option<Record>>,
}

/// What the database is to say of an exchange, prepared beside the running links.
pub struct Draft {
    session: Session,
    configured: Vec<Arc<Artifact>>,
    record: Option<Record>,
}

impl Draft {
    /// Whether something else is to run than the configuration names.
    pub fn is_any(&self) -> bool {
        self.record.is_some()
    }
}

/// The database that keeps it: green, which both links of a migration know, or the only target.
fn home(settings: &Settings) -> Address {
    match settings.two_way() {
        true => settings.green.address.clone(),
        false => settings.seen_from(settings.origin()).target().address.clone(),
    }
}

async fn connect(settings: &Settings) -> Outcome<Session> {
    Session::connect(&home(settings), "commanded").await
}

/// What the database says of a migration.
pub async fn recorded(settings: &Settings) -> Outcome<Option<Record>> {
    commanded::load(connect(settings).await?.client(), &settings.name).await
}

/// What a host begins with whose configuration names these artifacts. Writes nothing.
pub async fn begin(settings: &Settings, configured: Vec<Arc<Artifact>>) -> Outcome<Beginning> {
    let session = connect(settings).await?;
    let found = commanded::load(session.client(), &settings.name).await?;
    let named = digests(&configured);
    let holds = |record: &&Record| !settings.as_configured && sorted(&record.configured) == sorted(&named);
    let record = found.as_ref().filter(holds).cloned();
    let (revision, before) = match &record {
        None => (joined(settings, configured.clone())?, None),
        Some(record) => {
            let runs = revision(settings, &session, &configured, &record.runs).await?;
            let before = match &record.before {
                None => None,
                Some(before) => match revision(settings, &session, &configured, before).await {
                    Ok(before) => Some(before),
                    Err(problem) => {
                        tracing::warn!("there is nothing to swap back to: {problem}");
                        None
                    }
                },
            };
            (runs, before)
        }
    };
    let state = State { configured, record, found: Some(found) };
    let commanded = Commanded { settings: settings.clone(), state: Mutex::new(state) };
    Ok(Beginning { revision, before, commanded })
}

/// The revision with these digests: out of the configuration's artifacts, and of what the database keeps.
async fn revision(
    settings: &Settings,
    session: &Session,
    configured: &[Arc<Artifact>],
    digests: &[String],
) -> Outcome<Revision> {
    let mut artifacts = Vec::new();
    for digest in digests {
        artifacts.push(match configured.iter().find(|artifact| artifact.digest() == digest) {
            Some(artifact) => artifact.clone(),
            None => loaded(settings, session, digest).await?,
        });
    }
    joined(settings, artifacts)
}

async fn loaded(settings: &Settings, session: &Session, digest: &str) -> Outcome<Arc<Artifact>> {
    let kept = commanded::artifact(session.client(), &settings.name, digest).await?;
    // L11: what is compiled is what was put in.
    let kept = kept.filter(|kept| Artifact::digest_of(&kept.bytes) == digest).ok_or_else(|| damaged(digest))?;
    if settings.strict && !kept.pinned {
        let what = format!(
            "strict = true, and {}@{}, which was put in by command and holds, came without a pin",
            kept.name,
            short(digest)
        );
        return Err(Problem::refuse(Blame::Config, "UNPINNED", what).remedy(WAYS_OUT));
    }
    let (limits, compiler) = (settings.limits, settings.compiler.clone());
    let load = move || {
        let pin = kept.pinned.then_some(kept.digest.as_str());
        Artifact::from_bytes(&kept.name, &kept.bytes, pin, &limits, &compiler)
    };
    let lost = |_| Err(Problem::retry(Blame::Host, "TASK_LOST", "loading the artifact ended without an answer"));
    let loaded = tokio::task::spawn_blocking(load).await.unwrap_or_else(lost);
    loaded.map(Arc::new).map_err(|problem| problem.remedy(WAYS_OUT))
}

fn joined(settings: &Settings, artifacts: Vec<Arc<Artifact>>) -> Outcome<Revision> {
    Artifact::joined(artifacts, &settings.blue.schema_version, &settings.green.schema_version)
}

impl Commanded {
    /// A link is held: nobody else exchanges a revision any more, and the database is made to say what this host runs.
    pub async fn settle(&self) -> Outcome<()> {
        let mut state = self.state.lock().await;
        let session = connect(&self.settings).await?;
        let (client, name) = (session.client(), &self.settings.name);
        let now = commanded::load(client, name).await?;
        if let Some(found) = &state.found {
            // With two links each of them is refused, the one that comes second as well.
            if *found != now {
                let what =
                    "another revision was put in by command while this host waited for the link; nothing was written";
                return Err(Problem::refuse(Blame::Host, "REVISION_CHANGED", what)
                    .remedy("start it again: it begins with that one"));
            }
            state.record.iter().for_each(|record| tracing::warn!("{}", text(record)));
            state.found = None;
        }
        if now != state.record {
            commanded::save(client, name, state.record.as_ref()).await?;
        }
        commanded::tidy(client, name).await
    }

    /// What the database is to say once `new` runs in the place of `old`. Files that were found in the places of
    /// configured ones are the configuration's from then on.
    pub async fn draft(&self, (new, old): (&Revision, &Revision), files: &[(usize, Arc<Artifact>)]) -> Outcome<Draft> {
        let mut configured = self.state.lock().await.configured.clone();
        for (place, artifact) in files {
            if let Some(at) = configured.get_mut(*place) {
                at.clone_from(artifact);
            }
        }
        let record = self.record(&configured, (new, old));
        let session = connect(&self.settings).await?;
        self.keep(&session, record.as_ref(), (new, old)).await?;
        // What the host has given up must not be done behind its back.
        session.run(&format!("SET statement_timeout = {}", PATIENCE.as_millis() / 2)).await?;
        Ok(Draft { session, configured, record })
    }

    /// `None`: what runs is what the configuration names.
    fn record(&self, configured: &[Arc<Artifact>], (new, old): (&Revision, &Revision)) -> Option<Record> {
        // What leads nowhere by itself is not what runs.
        let named = joined(&self.settings, configured.to_vec());
        let before = (!is_same(new.as_deref(), old.as_deref())).then(|| digests(&parts(old)));
        let is_named = named.is_ok_and(|named| is_same(named.as_deref(), new.as_deref()));
        let of = |revision: &Revision| digests(&parts(revision));
        (!is_named).then(|| Record { configured: digests(configured), runs: of(new), before })
    }

    /// Keeps the bytes of what a record names and the configuration does not.
    async fn keep(
        &self,
        session: &Session,
        record: Option<&Record>,
        (new, old): (&Revision, &Revision),
    ) -> Outcome<()> {
        let Some(record) = record else { return Ok(()) };
        let is_needed = |artifact: &Arc<Artifact>| !record.configured.iter().any(|digest| digest == artifact.digest());
        for artifact in parts(new).into_iter().chain(parts(old)).filter(is_needed) {
            let file = artifact.file();
            let what = (artifact.digest(), file.name.as_str(), file.pinned);
            commanded::keep(session.client(), &self.settings.name, what, &file.bytes).await?;
        }
        Ok(())
    }

    /// L11: the database says so, then `exchange` makes it so; nobody else does either meanwhile. `false`: it could not be
    /// made so, and what ran goes on.
    pub async fn hold(&self, draft: &Draft, exchange: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock().await;
        let (client, name) = (draft.session.client(), &self.settings.name);
        let is_any = draft.record.is_some() || state.record.is_some();
        let done = match is_any {
            true => tokio::time::timeout(PATIENCE, commanded::save(client, name, draft.record.as_ref())).await,
            false => Ok(Ok(())),
        };
        if matches!(done, Ok(Ok(()))) && exchange() {
            (state.configured, state.record) = (draft.configured.clone(), draft.record.clone());
            return true;
        }
        if let Ok(Err(problem)) = &done {
            tracing::warn!("the target does not take down which revision is to run: {problem}");
        }
        if is_any {
            self.write_again(&state).await;
        }
        false
    }

    /// The links go back to a revision by themselves: `exchange` makes it so whatever the database can be told.
    pub async fn go_back(&self, to: &Revision, exchange: impl FnOnce() -> bool) -> bool {
        let mut state = self.state.lock().await;
        let record = self.record(&state.configured, (to, to));
        let told = async {
            let session = connect(&self.settings).await?;
            self.keep(&session, record.as_ref(), (to, to)).await?;
            commanded::save(session.client(), &self.settings.name, record.as_ref()).await
        };
        // A target that cannot be reached is told when the next life of a link begins.
        let _ = tokio::time::timeout(PATIENCE, told).await;
        let went = exchange();
        match went {
            true => state.record = record,
            false => self.write_again(&state).await,
        }
        went
    }

    /// What is not needed any more goes once the links have gone on.
    pub async fn tidy(&self, draft: &Draft) {
        // The next start does it as well.
        let _ = commanded::tidy(draft.session.client(), &self.settings.name).await;
    }

    /// Whether what runs is not what the configuration names.
    pub async fn is_any(&self) -> bool {
        self.state.lock().await.record.is_some()
    }

    async fn write_again(&self, state: &State) {
        let written = async {
            let session = connect(&self.settings).await?;
            commanded::save(session.client(), &self.settings.name, state.record.as_ref()).await
        };
        // Otherwise the next life of the link that copies does it.
        let _ = tokio::time::timeout(PATIENCE, written).await;
    }
}

fn parts(revision: &Revision) -> Vec<Arc<Artifact>> {
    revision.as_ref().map(Artifact::parts).unwrap_or_default()
}

fn digests(artifacts: &[Arc<Artifact>]) -> Vec<String> {
    artifacts.iter().map(|artifact| artifact.digest().to_owned()).collect()
}

fn sorted(digests: &[String]) -> Vec<&String> {
    let mut sorted: Vec<&String> = digests.iter().collect();
    sorted.sort();
    sorted
}

const WAYS_OUT: &str = "name the file of the revision that is to run in migration.transforms, with its digest if strict is set; or \
    start the host once with `falkirk run --configured` to take what the configuration names now";

fn damaged(digest: &str) -> Problem {
    let what = format!(
        "{} was put in by command and holds, but falkirk.artifact does not keep its bytes any more, or others",
        short(digest)
    );
    Problem::refuse(Blame::Target, "REVISION_LOST", what).remedy(WAYS_OUT)
}

/// What it means that something else runs than the configuration names, and what to do.
pub fn text(record: &Record) -> String {
    let only = |these: &[String], those: &[String]| -> String {
        let only: Vec<String> = these.iter().filter(|one| !those.contains(one)).map(|one| short(one)).collect();
        if only.is_empty() { "none".to_owned() } else { only.join(" + ") }
    };
    let (runs, configured) = (only(&record.runs, &record.configured), only(&record.configured, &record.runs));
    format!(
        "REVISION_COMMANDED: {runs} was put in by command and runs, also after a restart; the configuration names \
         {configured} and gets its way once one of its files is another one. To make it permanent: name the file of {runs} \
         in migration.transforms. To go back: `falkirk swap --back` while the host runs, or start it once with `falkirk run \
         --configured`"
    )
}

/// As labels name an artifact.
fn short(digest: &str) -> String {
    format!("sha256:{}", digest.get(..12).unwrap_or(digest))
}
