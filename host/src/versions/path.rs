//! The way from blue's version to green's through the steps that are there.

use std::collections::BTreeSet;

use super::Step;
use crate::problem::{Blame, Outcome, Problem};

/// Positions of the steps that lead from one version to another, in their order. A problem if none does, or if more
/// than one way does: choosing is the operator's.
pub fn path(steps: &[Step<'_>], from: &str, to: &str) -> Outcome<Vec<usize>> {
    one_application(steps)?;
    let mut found = Vec::new();
    let search = Search { steps, to, useful: leads_to(steps, to) };
    search.walk(from, &mut Vec::new(), &mut found);
    match <[Vec<usize>; 1]>::try_from(found) {
        Ok([only]) => Ok(only),
        Err(none) if none.is_empty() => Err(missing(steps, from, to)),
        Err(several) => Err(ambiguous(steps, &several, from, to)),
    }
}

fn one_application(steps: &[Step<'_>]) -> Outcome<()> {
    let names: BTreeSet<&str> = steps.iter().map(|step| step.manifest.name.as_str()).collect();
    if names.len() < 2 {
        return Ok(());
    }
    let names: Vec<&str> = names.into_iter().collect();
    Err(Problem::refuse(
        Blame::Config,
        "MIXED_APPLICATIONS",
        format!("the transforms belong to several applications: {}", names.join(", ")),
    )
    .remedy("name the artifacts of one application in `transforms`"))
}

/// The versions from which the steps lead to `to`.
fn leads_to<'a>(steps: &[Step<'a>], to: &'a str) -> BTreeSet<&'a str> {
    let mut useful = BTreeSet::from([to]);
    loop {
        let more = steps
            .iter()
            .map(|step| step.manifest)
            .find(|manifest| useful.contains(manifest.to.as_str()) && !useful.contains(manifest.from.as_str()));
        match more {
            Some(manifest) => useful.insert(manifest.from.as_str()),
            None => return useful,
        };
    }
}

struct Search<'s, 'a> {
    steps: &'s [Step<'a>],
    to: &'s str,
    useful: BTreeSet<&'s str>,
}

impl Search<'_, '_> {
    /// Finds at most two ways that meet no version twice: the second one is enough to refuse.
    fn walk(&self, at: &str, trail: &mut Vec<usize>, found: &mut Vec<Vec<usize>>) {
        if at == self.to && !trail.is_empty() {
            found.push(trail.clone());
            return;
        }
        for (position, step) in self.steps.iter().enumerate() {
            let (from, to) = (step.manifest.from.as_str(), step.manifest.to.as_str());
            let again = trail.iter().any(|earlier| self.steps[*earlier].manifest.from == to);
            if found.len() > 1 || from != at || again || from == to || !self.useful.contains(to) {
                continue;
            }
            trail.push(position);
            self.walk(to, trail, found);
            trail.pop();
        }
    }
}

fn there(steps: &[Step<'_>]) -> String {
    steps.iter().map(Step::named).collect::<Vec<_>>().join(", ")
}

fn missing(steps: &[Step<'_>], from: &str, to: &str) -> Problem {
    let mut reached = BTreeSet::from([from]);
    while let Some(step) = steps
        .iter()
        .find(|step| reached.contains(step.manifest.from.as_str()) && !reached.contains(step.manifest.to.as_str()))
    {
        reached.insert(&step.manifest.to);
    }
    let back = leads_to(steps, to);
    let list = |versions: &BTreeSet<&str>| versions.iter().copied().collect::<Vec<_>>().join(", ");
    Problem::refuse(
        Blame::Config,
        "NO_PATH",
        format!("no transforms lead from version {from} to {to}; there are {}", there(steps)),
    )
    .remedy(format!(
        "add the artifact of the missing step, from one of the versions {} to one of {}, or correct schema_version",
        list(&reached),
        list(&back)
    ))
}

fn ambiguous(steps: &[Step<'_>], ways: &[Vec<usize>], from: &str, to: &str) -> Problem {
    let way = |way: &Vec<usize>| way.iter().map(|step| steps[*step].named()).collect::<Vec<_>>().join(" then ");
    let ways: Vec<String> = ways.iter().map(way).collect();
    Problem::refuse(
        Blame::Config,
        "TWO_PATHS",
        format!("more than one way leads from version {from} to {to}: {}", ways.join("; or ")),
    )
    .remedy("take the artifacts of all ways but one out of `transforms`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::Manifest;

    fn found(steps: &[(&str, &str)], from: &str, to: &str) -> Outcome<Vec<usize>> {
        let manifest = |(from, to): &(&str, &str)| {
            let text = serde_json::json!({ "falkirk": 1, "name": "shop", "from": from, "to": to });
            Manifest::parse(&text.to_string()).unwrap()
        };
        let manifests: Vec<Manifest> = steps.iter().map(manifest).collect();
        let labels: Vec<String> = (0..steps.len()).map(|number| format!("{number}.wasm")).collect();
        let steps = manifests.iter().zip(&labels).map(|(manifest, label)| Step { manifest, label });
        path(&steps.collect::<Vec<_>>(), from, to)
    }

    #[test]
    fn the_steps_are_put_in_order_and_what_leads_elsewhere_stands_aside() {
        assert_eq!(found(&[("2", "3"), ("1", "2"), ("3", "4"), ("0", "1")], "1", "3").unwrap(), [1, 0]);
        assert_eq!(found(&[("a", "b"), ("b", "a"), ("b", "c")], "a", "c").unwrap(), [0, 2], "a circle is no way");
    }

    #[test]
    fn a_missing_step_is_refused_with_what_is_there_and_between_which_versions_it_lacks() {
        let problem = found(&[("1", "2"), ("3", "4")], "1", "4").unwrap_err();
        assert_eq!(problem.code(), "NO_PATH");
        let text = problem.to_string();
        assert!(text.contains("1 to 2 (0.wasm)") && text.contains("3 to 4 (1.wasm)"), "{text}");
        assert!(text.contains("from one of the versions 1, 2 to one of 3, 4"), "{text}");
        assert_eq!(found(&[("1", "2"), ("2", "1")], "1", "1").unwrap_err().code(), "NO_PATH");
    }

    #[test]
    fn two_artifacts_for_one_step_and_two_ways_are_refused_with_both() {
        for steps in [&[("1", "2"), ("1", "2"), ("2", "3")][..], &[("1", "2"), ("2", "3"), ("1", "3")]] {
            let problem = found(steps, "1", "3").unwrap_err();
            assert_eq!(problem.code(), "TWO_PATHS");
            assert!(problem.to_string().contains("(0.wasm)") && problem.to_string().contains("; or "), "{problem}");
        }
        assert_eq!(found(&[("1", "2"), ("2", "3"), ("3", "4"), ("3", "4")], "1", "3").unwrap(), [0, 1]);
    }
}
