//! Bits that say of a stored message which groups' conditions it fulfils, with false positives.
//!
//! Each group and topic has `k` of `m` bits; a message's map has those of every group whose condition holds. A group
//! whose bits are not all set need not look at the message. (Java: `org.apache.rocketmq.filter.util.BloomFilter`)

use wire::{body::filter::BloomFilterData, hash};

/// The size of bit maps, from which a group's bits follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BloomFilter {
    /// Bits of a group.
    k: i32,
    /// Bits of a map, a multiple of 8.
    m: i32,
}

impl BloomFilter {
    /// Takes the percentage of false positives (1 to 99) with `groups` conditions on a topic.
    pub(crate) fn new(error_percent: u32, groups: u32) -> BloomFilter {
        let log = |base: f64, number: f64| number.ln() / base.ln();
        let error = f64::from(error_percent.clamp(1, 99)) / 100.0;
        let bits = f64::from(groups.max(1)) * log(2.0, 1.0 / error) * log(2.0, std::f64::consts::E);
        BloomFilter { k: log(0.5, error).ceil() as i32, m: (bits.ceil() / 8.0).ceil() as i32 * 8 }
    }

    /// Returns the bits of a group on a topic.
    pub(crate) fn bits_of(&self, group: &str, topic: &str) -> BloomFilterData {
        let hash = hash::murmur3(format!("{group}#{topic}").as_bytes());
        let (first, second) = (hash as i32, (hash >> 32) as i32);
        let position = |n: i32| {
            let combined = first.wrapping_add(n.wrapping_mul(second));
            (if combined < 0 { !combined } else { combined }) % self.m
        };
        BloomFilterData { bit_num: self.m, bit_pos: (1..=self.k).map(position).collect() }
    }

    /// Whether these bits are of maps of this size.
    pub(crate) fn made(&self, bits: &BloomFilterData) -> bool {
        bits.bit_num == self.m
            && bits.bit_pos.len() == self.k as usize
            && bits.bit_pos.iter().all(|bit| (0..self.m).contains(bit))
    }

    /// Returns a map without any bit set.
    pub(crate) fn empty_map(&self) -> Vec<u8> {
        vec![0; self.m as usize / 8]
    }
}

/// Sets a group's bits.
pub(crate) fn set(map: &mut [u8], bits: &BloomFilterData) {
    for bit in &bits.bit_pos {
        map[*bit as usize / 8] |= 1 << (bit % 8);
    }
}

/// Whether the message of this map may fulfil the group's condition; a map of another size says nothing.
pub(crate) fn may_match(map: &[u8], bits: &BloomFilterData) -> bool {
    map.len() * 8 != bits.bit_num as usize
        || bits.bit_pos.iter().all(|bit| map[*bit as usize / 8] & 1 << (bit % 8) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_bits_are_those_of_java() {
        let bits = |percent, groups, name: &str, topic| {
            let filter = BloomFilter::new(percent, groups);
            let bits = filter.bits_of(name, topic);
            assert!(filter.made(&bits));
            (bits.bit_num, bits.bit_pos)
        };
        assert_eq!(bits(20, 32, "G", "T"), (112, vec![24, 26, 83]));
        let name = "please_rename_unique_group_name_4";
        assert_eq!(bits(20, 32, name, "TopicTest"), (112, vec![63, 14, 51]));
        assert_eq!(bits(20, 64, name, "TopicTest"), (216, vec![7, 134, 123]));
        assert_eq!(bits(10, 128, name, "TopicTest"), (616, vec![175, 518, 331, 362]));
        assert_eq!(bits(1, 1, name, "TopicTest"), (16, vec![15, 14, 3, 10, 7, 9, 4]));
        assert_eq!(bits(99, 1, name, "TopicTest"), (8, vec![7]));
        let long = "主题 and some more bytes than sixteen";
        assert_eq!(bits(5, 33, "消费组", long), (208, vec![35, 149, 129, 152, 32]));
    }

    #[test]
    fn a_map_has_the_bits_of_java() {
        let filter = BloomFilter::new(20, 32);
        let bits = filter.bits_of("G", "T");
        let mut map = filter.empty_map();
        assert!(!may_match(&map, &bits));
        set(&mut map, &bits);
        assert_eq!(map, [0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0]);
        assert!(may_match(&map, &bits));
        assert!(!may_match(&map, &filter.bits_of("H", "T")));
        assert!(may_match(&[0; 8], &bits), "a map of another size says nothing");
        assert!(!BloomFilter::new(20, 64).made(&bits));
    }
}
