//! Which queues are whose: every member of a group computes it by itself, so all must come to the same answer.
//!
//! The answers are those of Java's strategies, so members in either language may share a group, if they use the same one.
//! Java: `AllocateMessageQueueAveragely` and its kin, `ConsistentHashRouter`.

use std::collections::BTreeMap;

use wire::body::MessageQueue;

use md5::{Digest, Md5};

/// How the queues of a topic are shared out among the members of a group. All members use the same strategy, also those
/// in Java: a queue would be consumed twice or by nobody otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum AllocateStrategy {
    /// Each member has a run of neighbouring queues (Java: `AllocateMessageQueueAveragely`).
    #[default]
    Average,
    /// Queues are dealt out like cards (Java: `AllocateMessageQueueAveragelyByCircle`).
    AverageByCircle,
    /// Members stand on a ring, each at so many places, and a queue is the next one's: few queues move when members come
    /// and go (Java: `AllocateMessageQueueConsistentHash`).
    ConsistentHash {
        /// Places of a member, at least 1; Java has 10 by default.
        virtual_nodes: u16,
    },
    /// As [`AllocateStrategy::Average`], among queues of brokers whose name is `ROOM@NAME` with one of these rooms (Java:
    /// `AllocateMessageQueueByMachineRoom`).
    MachineRoom {
        /// The rooms.
        rooms: Vec<String>,
    },
    /// These queues, whoever else is there (Java: `AllocateMessageQueueByConfig`).
    Config {
        /// The queues.
        queues: Vec<MessageQueue>,
    },
}

impl AllocateStrategy {
    /// Returns the share of the member `me`. `queues` and `members` are sorted.
    pub(crate) fn share(
        &self,
        me: &str,
        queues: &[MessageQueue],
        members: &[String],
    ) -> Vec<MessageQueue> {
        if let AllocateStrategy::Config { queues: mine } = self {
            return queues.iter().filter(|queue| mine.contains(queue)).cloned().collect();
        }
        let Some(at) = members.iter().position(|member| member == me) else { return Vec::new() };
        match self {
            AllocateStrategy::Average => run_of(queues, at, members.len()).to_vec(),
            AllocateStrategy::AverageByCircle => {
                queues.iter().skip(at).step_by(members.len()).cloned().collect()
            }
            AllocateStrategy::ConsistentHash { virtual_nodes } => {
                let ring = ring(members, *virtual_nodes);
                let mine = |queue: &&MessageQueue| next_on(&ring, queue) == Some(me);
                queues.iter().filter(mine).cloned().collect()
            }
            AllocateStrategy::MachineRoom { rooms } => {
                let here = |queue: &&MessageQueue| {
                    let mut parts = queue.broker_name.split('@');
                    match (parts.next(), parts.next(), parts.next()) {
                        (Some(room), Some(_), None) => rooms.iter().any(|known| known == room),
                        _ => false,
                    }
                };
                let queues: Vec<&MessageQueue> = queues.iter().filter(here).collect();
                let (each, rest) = (queues.len() / members.len(), queues.len() % members.len());
                let run = queues.iter().skip(each * at).take(each);
                let one_more = (at < rest).then(|| &queues[each * members.len() + at]);
                run.chain(one_more).map(|queue| MessageQueue::clone(queue)).collect()
            }
            AllocateStrategy::Config { .. } => Vec::new(),
        }
    }
}

fn run_of(queues: &[MessageQueue], at: usize, members: usize) -> &[MessageQueue] {
    let (each, rest) = (queues.len() / members, queues.len() % members);
    let begin = each * at + at.min(rest);
    let len = each + usize::from(at < rest);
    queues.get(begin..begin + len).unwrap_or_default()
}

fn ring(members: &[String], virtual_nodes: u16) -> BTreeMap<u32, &str> {
    let places = members.iter().flat_map(|member| {
        (0..virtual_nodes).map(move |node| (hash(&format!("{member}-{node}")), member.as_str()))
    });
    places.collect()
}

fn next_on<'a>(ring: &BTreeMap<u32, &'a str>, queue: &MessageQueue) -> Option<&'a str> {
    let MessageQueue { topic, broker_name, queue_id } = queue;
    // What Java's `MessageQueue.toString` says.
    let text =
        format!("MessageQueue [topic={topic}, brokerName={broker_name}, queueId={queue_id}]");
    let behind = ring.range(hash(&text)..).next();
    behind.or_else(|| ring.first_key_value()).map(|(_, member)| *member)
}

fn hash(text: &str) -> u32 {
    let [a, b, c, d, ..]: [u8; 16] = Md5::digest(text.as_bytes()).into();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn queues(brokers: &[&str], each: i32) -> Vec<MessageQueue> {
        let queue = |broker: &&str, queue_id| MessageQueue {
            broker_name: (*broker).to_owned(),
            queue_id,
            topic: "T".to_owned(),
        };
        brokers.iter().flat_map(|broker| (0..each).map(move |id| queue(broker, id))).collect()
    }

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|at| format!("10.0.0.{at}@1")).collect()
    }

    fn ids(
        strategy: &AllocateStrategy,
        queues: &[MessageQueue],
        members: &[String],
    ) -> Vec<Vec<i32>> {
        let share = |member: &String| strategy.share(member, queues, members);
        members
            .iter()
            .map(|member| share(member).iter().map(|queue| queue.queue_id).collect())
            .collect()
    }

    #[test]
    fn shares_are_those_of_java() {
        let queues = queues(&["a"], 8);
        let three = members(3);
        let average = AllocateStrategy::Average;
        assert_eq!(ids(&average, &queues, &three), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(ids(&average, &queues[..2], &three), [vec![0], vec![1], vec![]]);
        let circle = AllocateStrategy::AverageByCircle;
        assert_eq!(ids(&circle, &queues, &three), [vec![0, 3, 6], vec![1, 4, 7], vec![2, 5]]);
    }

    #[test]
    fn every_queue_has_one_owner() {
        let queues = queues(&["a", "b"], 16);
        for strategy in [
            AllocateStrategy::Average,
            AllocateStrategy::AverageByCircle,
            AllocateStrategy::ConsistentHash { virtual_nodes: 10 },
        ] {
            for count in [1, 2, 5, 31, 40] {
                let members = members(count);
                let shares = members.iter().flat_map(|me| strategy.share(me, &queues, &members));
                let all: Vec<MessageQueue> = shares.collect();
                let distinct: BTreeSet<&MessageQueue> = all.iter().collect();
                assert_eq!((all.len(), distinct.len()), (32, 32), "{strategy:?} {count}");
            }
        }
    }

    #[test]
    fn a_member_that_leaves_a_ring_moves_only_its_own_queues() {
        let queues = queues(&["a", "b"], 16);
        let ring = AllocateStrategy::ConsistentHash { virtual_nodes: 10 };
        let (all, fewer) = (members(5), members(4));
        for member in &fewer {
            let before = ring.share(member, &queues, &all);
            let after = ring.share(member, &queues, &fewer);
            assert!(before.iter().all(|queue| after.contains(queue)));
        }
    }

    #[test]
    fn rooms_and_lists_choose_queues_and_strangers_get_none() {
        let queues = queues(&["east@a", "plain", "west@b"], 3);
        let room = AllocateStrategy::MachineRoom { rooms: vec!["west".to_owned()] };
        assert_eq!(ids(&room, &queues, &members(2)), [vec![0, 2], vec![1]]);
        let list = AllocateStrategy::Config { queues: queues[3..5].to_vec() };
        assert_eq!(list.share("anybody", &queues, &[]), queues[3..5]);
        assert!(AllocateStrategy::Average.share("stranger", &queues, &members(2)).is_empty());
    }
}
