//! Which columns of a row changed, whether an output's row exists at all, and which images of a change the guest has to
//! be asked about. Pure, like all delta rules.

use crate::change::{Before, Cell, Event, Image};
use crate::manifest::Write;
use crate::plan::{Filling, Group, Output, Source};

/// Which images of a change the guest has to be asked about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The old row.
    pub before: bool,
    /// The new row.
    pub after: bool,
}

/// Which columns of a row changed.
pub(super) struct Changed<'a> {
    /// `None`: nobody can tell, so everything counts as changed.
    pub(super) before: Option<&'a Image>,
    pub(super) after: &'a Image,
}

impl Changed<'_> {
    pub(super) fn column(&self, column: usize) -> bool {
        self.before.is_none_or(|before| !self.after.agrees(before, column))
    }

    fn any(&self, columns: &[usize]) -> bool {
        columns.iter().any(|column| self.column(*column))
    }

    /// Whether any column that the host itself fills changed, or the row that it is about.
    pub(super) fn copied(&self, output: &Output) -> bool {
        let needs = || output.needs.iter().any(|need| self.column(need.cell) || self.column(need.column));
        let matched = || output.write == Write::Patch && self.key(output);
        output.copied.iter().any(|(source, _)| self.column(*source)) || needs() || matched() || self.asserted(output)
    }

    /// What is ensured is asserted again whenever anything of the source row changed.
    fn asserted(&self, output: &Output) -> bool {
        output.write == Write::Ensure && (0..self.after.len()).any(|column| self.column(column))
    }

    /// Whether the row comes into being or ceases with a mapped key.
    fn moved(&self, output: &Output) -> bool {
        self.before.is_some_and(|before| exists(output, before) != exists(output, self.after))
    }

    pub(super) fn group(&self, group: &Group) -> bool {
        self.any(&group.from)
    }

    fn key(&self, output: &Output) -> bool {
        output.key.iter().any(|part| match part {
            Filling::Copied(cell) | Filling::Mapped(cell) => self.column(*cell),
            Filling::Computed(value) => {
                output.groups.iter().any(|group| group.values.contains(value) && self.group(group))
            }
        })
    }
}

/// Whether the keys that an output's row needs have their partners. A row whose key has none does not exist yet.
pub(super) fn exists(output: &Output, image: &Image) -> bool {
    let is_null = |cell: usize| image.cell(cell) == Cell::Null;
    let unmatched = |part: &Filling| matches!(part, Filling::Copied(column) if is_null(*column));
    let nobody = output.write == Write::Patch && output.key.iter().any(unmatched);
    !nobody && output.needs.iter().all(|need| !is_null(need.cell) || (need.nullable && is_null(need.column)))
}

fn key_is_computed(output: &Output) -> bool {
    output.key.iter().any(|part| matches!(part, Filling::Computed(_)))
}

/// Which images the guest has to be asked about for this change.
///
/// An output that copies a changed column and exists only sometimes asks as well: only the guest knows whether the
/// row is there.
pub fn ask(source: &Source, event: &Event) -> Ask {
    let outputs = source.rule.outputs.iter().filter(|output| output.needs_guest());
    match event {
        Event::Insert(_) => Ask { before: false, after: outputs.count() > 0 },
        Event::Delete(_) => {
            let asked = |output: &Output| output.when.is_some() || output.many || key_is_computed(output);
            Ask { before: outputs.into_iter().any(asked), after: false }
        }
        Event::Update { before, after } => {
            let full = if let Before::Full(image) = before { Some(image) } else { None };
            let changed = Changed { before: full, after };
            outputs.map(|output| ask_update(output, &changed)).fold(Ask::default(), |sum, ask| Ask {
                before: sum.before || ask.before,
                after: sum.after || ask.after,
            })
        }
        Event::Truncate { .. } | Event::Denied { .. } => Ask::default(),
    }
}

pub(super) fn ask_update(output: &Output, changed: &Changed<'_>) -> Ask {
    let groups = output.groups.iter().any(|group| changed.group(group));
    let routed = output.when.as_ref().is_some_and(|inputs| changed.any(inputs));
    if changed.before.is_none() {
        return Ask { before: false, after: true };
    }
    if output.many {
        // L3: with `when`, also what decides whether there is a list at all.
        let any = groups || routed || changed.copied(output);
        return Ask { before: any, after: any };
    }
    let moved = changed.moved(output);
    let guest_knows_more = output.when.is_some() || key_is_computed(output);
    let before = routed || (key_is_computed(output) && changed.key(output)) || (moved && guest_knows_more);
    let asserted = changed.asserted(output);
    // L3: under another key it is another row, which needs all of its columns.
    let replaced = !output.follows_source && changed.key(output);
    let known = changed.copied(output) && guest_knows_more;
    Ask { before, after: before || groups || moved || asserted || replaced || known }
}
