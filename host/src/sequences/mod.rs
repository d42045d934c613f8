//! Keeping the keys that both sides hand out apart (design, section 3; counter-example 24).
//!
//! `classes` says which sequences hand out numbers that meet, `ranges` who goes on where; both are pure. `keep` carries it
//! out, at every start and again and again while a host runs; `shown` says how it stands, for `check` and `status`.
//!
//! With two links, green's and blue's sequences leapfrog, whichever link applies: the other side's application may begin
//! to write at any moment. The starts are remembered in green, so that a restart knows them. With one link alone the
//! target's sequences only follow the source's, so that whoever takes over there goes on behind them.

mod classes;
mod keep;
mod ranges;
mod shown;

pub use classes::{Class, Classes, classes};
pub use keep::{Kept, keep, look};
pub use shown::{Shown, shown};

use crate::config::Settings;
use crate::marker::Link;
use crate::pg::session::Session;
use crate::plan::Plan;
use crate::problem::{Blame, Outcome};

/// A side: `Forward` for blue, which that link reads, `Backward` for green.
pub type Side = Link;

/// What a side is called.
fn side_name(side: Side) -> &'static str {
    if side == Link::Forward { "blue" } else { "green" }
}

/// What the keeper has to know.
pub struct Given<'a> {
    /// The configuration.
    pub settings: &'a Settings,
    /// The plan of the link that copies, and that of the other one if there is one.
    pub plans: [Option<&'a Plan>; 2],
    /// The target has handed out nothing yet: it is the first start.
    pub is_first_start: bool,
}

impl Given<'_> {
    fn plans(&self) -> Vec<(Side, &Plan)> {
        let origin = self.settings.origin();
        let links = [origin, origin.other()];
        links.into_iter().zip(self.plans).filter_map(|(link, plan)| Some((link, plan?))).collect()
    }

    /// The side whose application the migration began with.
    fn source(&self) -> Side {
        self.settings.origin()
    }
}

/// Both databases.
struct Sides {
    blue: Session,
    green: Session,
}

impl Sides {
    async fn connect(settings: &Settings) -> Outcome<Sides> {
        let blame = |side: Side| if side == settings.origin() { Blame::Source } else { Blame::Target };
        Ok(Sides {
            blue: Session::connect_blaming(&settings.blue.address, blame(Link::Forward), "sequences").await?,
            green: Session::connect_blaming(&settings.green.address, blame(Link::Backward), "sequences").await?,
        })
    }

    fn of(&self, side: Side) -> &Session {
        if side == Link::Forward { &self.blue } else { &self.green }
    }
}
