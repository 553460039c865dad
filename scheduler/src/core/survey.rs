//! What every node says to a pod: the score of those that fit, and why the others do not.

use std::sync::Arc;

use super::engine::Engine;
use super::nodes::NodeId;
use super::nominations::Ask;
use super::rules;

/// What a node says to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinion {
    /// The node's name.
    pub node: Arc<str>,
    /// Its score, in thousandths of Kubernetes' points, if it fits.
    pub score: Option<i64>,
    /// Why it does not fit.
    pub reasons: Vec<String>,
}

impl Engine {
    /// What the nodes say to the asker, in the order of their names, with the nominated pods that matter to it.
    pub fn survey(&mut self, ask: Ask) -> Vec<Opinion> {
        self.view_for(ask);
        self.settle(ask.class);
        let scores = self.classes.scores(ask.class, &self.counters, &self.nodes, &self.log).unwrap_or_default();
        let Some(candidate) = self.classes.candidate(ask.class, &self.counters) else { return Vec::new() };
        let opinions = self.nodes.in_name_order().map(|slot| {
            let verdict = rules::judge(candidate, &self.nodes, slot);
            let texts = verdict.into_iter().flat_map(|verdict| verdict.reasons);
            let mut reasons: Vec<String> =
                texts.map(|reason| reason.text(|resource| self.table.name(resource).to_owned())).collect();
            reasons.sort_unstable();
            let score = scores.get(&slot).copied().filter(|_| reasons.is_empty());
            Opinion { node: self.nodes.shared_name(slot).clone(), score, reasons }
        });
        opinions.collect()
    }

    /// The score of the node for the asker, in thousandths of Kubernetes' points, if it fits.
    pub fn score_on(&mut self, ask: Ask, node: NodeId) -> Option<i64> {
        self.view_for(ask);
        self.settle(ask.class);
        self.classes.score(ask.class, node.0, &self.counters, &self.nodes, &self.log)
    }
}
