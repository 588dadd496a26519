//! The prefix cache: what is found, what is evicted first, what is published.

use super::*;

/// The tokens of `segments`, and an answer that nobody else gets.
fn content(segments: &[(u64, u32)], answer: u64) -> Content {
    let segment = |&(content, tokens)| Segment { content, tokens };
    Content {
        prompt: segments.iter().map(segment).collect(),
        answer,
        salt: None,
    }
}

/// Runs one request to its end: the prompt tokens that it found cached.
fn found(engine: &mut Engine, request: Request, content: Content) -> u64 {
    let before = engine.statistics().prefix_cache_hits;
    engine
        .submit_with(at_us(1 << 40), request, content)
        .expect("fits");
    while engine.next_step_end().is_some() {
        step(engine);
    }
    engine.statistics().prefix_cache_hits - before
}

fn events(engine: &mut Engine) -> Vec<KvEvent> {
    let batches = engine.take_kv_batches();
    batches.into_iter().flat_map(|batch| batch.events).collect()
}

#[test]
fn whole_blocks_of_a_prompt_are_found_and_its_last_token_is_always_computed() {
    let mut engine = roomy();
    let mut ask = |id, tokens: u32| {
        found(
            &mut engine,
            base(id, tokens, 1),
            content(&[(7, tokens)], id),
        )
    };
    // Blocks of 16, as recorded with blocks of 32: of 121 tokens 96 were found.
    assert_eq!([ask(1, 61), ask(2, 61), ask(3, 40)], [0, 48, 32]);
    assert_eq!(
        [ask(4, 64), ask(5, 64)],
        [48, 48],
        "64 less one is three blocks"
    );
    let statistics = engine.statistics();
    assert_eq!(statistics.prefix_cache_queries, 61 + 61 + 40 + 64 + 64);
    assert_eq!(statistics.prompt_tokens, statistics.prefix_cache_queries);
    assert_eq!(statistics.prompt_tokens_cached, 48 + 32 + 48 + 48);
    assert_eq!(
        statistics.iteration_tokens.sum(),
        (290 - 176 + 5) as f64,
        "what was computed and generated"
    );
    assert_eq!(statistics.request_prefill_kv_computed.sum(), 290.0 - 176.0);
}

#[test]
fn a_conversation_finds_the_answer_before_and_others_the_common_beginning() {
    let mut engine = roomy();
    let system = (1, 40);
    let first = content(&[system, (2, 10)], 3);
    assert_eq!(found(&mut engine, base(1, 50, 30), first), 0);
    let next_turn = content(&[system, (2, 10), (3, 30), (4, 20)], 5);
    assert_eq!(
        found(&mut engine, base(2, 100, 1), next_turn),
        64,
        "of 80 tokens, the last given has not been computed"
    );
    let other = content(&[system, (6, 60)], 7);
    assert_eq!(found(&mut engine, base(3, 100, 1), other), 32);
}

#[test]
fn adapters_and_salts_share_nothing() {
    let mut engine = roomy();
    let prompt = || content(&[(1, 40)], 2);
    let request =
        |id, adapter: Option<u32>| Request::new(RequestId(id), adapter.map(AdapterId), 40, 1);
    let salted = |salt| Content {
        salt: Some(salt),
        ..prompt()
    };
    assert_eq!(found(&mut engine, request(1, None), prompt()), 0);
    assert_eq!(found(&mut engine, request(2, Some(0)), prompt()), 0);
    assert_eq!(found(&mut engine, request(3, Some(1)), prompt()), 0);
    assert_eq!(found(&mut engine, request(4, Some(0)), prompt()), 32);
    assert_eq!(found(&mut engine, request(5, None), salted(1)), 0);
    assert_eq!(found(&mut engine, request(6, None), salted(2)), 0);
    assert_eq!(found(&mut engine, request(7, None), salted(1)), 32);
}

#[test]
fn without_prefix_caching_nothing_is_found_or_published() {
    let mut engine = Engine::new(Profile {
        prefix_caching: false,
        ..profile()
    });
    engine.keep_kv_events();
    for id in 1..=2 {
        assert_eq!(
            found(&mut engine, base(id, 40, 1), content(&[(1, 40)], 2)),
            0
        );
    }
    assert_eq!(engine.take_kv_batches(), []);
}

#[test]
fn tails_are_evicted_before_heads_and_the_oldest_request_first() {
    let mut engine = Engine::new(profile());
    engine.keep_kv_events();
    let mut ask = |id, name, tokens| {
        found(
            &mut engine,
            base(id, tokens, 1),
            content(&[(name, tokens)], 100 + id),
        )
    };
    // Nine blocks: two prompts of four fill eight, then one of three takes the ninth and the last two of the first.
    ask(1, 1, 64);
    ask(2, 2, 64);
    ask(3, 3, 48);
    assert_eq!(ask(4, 1, 64), 32, "the head of the oldest is still there");
    let published = events(&mut engine);
    let stored = |event: &KvEvent| match event {
        KvEvent::Stored { hashes, .. } => hashes.clone(),
        _ => Vec::new(),
    };
    let removed: Vec<_> = published
        .iter()
        .filter_map(|event| match event {
            KvEvent::Removed { hash } => Some(*hash),
            _ => None,
        })
        .collect();
    let (first, second) = (stored(&published[0]), stored(&published[1]));
    assert_eq!(
        removed,
        [first[3], first[2], second[3], second[2]],
        "one event a block, last block first"
    );
    let KvEvent::Stored { hashes, parent, .. } = &published[published.len() - 1] else {
        panic!("the last request stored what it had not found");
    };
    assert_eq!((&hashes[..], *parent), (&first[2..], Some(first[1])));
}

#[test]
fn equal_blocks_are_kept_twice_and_each_copy_is_removed_by_itself() {
    let mut engine = Engine::new(profile());
    engine.keep_kv_events();
    // Two at once: neither finds what the other computes in the same step. Then two more find the first copies.
    let prompt = || content(&[(1, 32)], 2);
    engine
        .submit(Instant::ZERO, base(9, 1, 1))
        .expect("a step to wait for");
    for id in 1..=2 {
        let request = base(id, 32, 1);
        engine
            .submit_with(Instant::ZERO, request, prompt())
            .expect("fits");
    }
    while engine.next_step_end().is_some() {
        step(&mut engine);
    }
    // 31 tokens may be found: the second of the batch shares the first block of the first, and computes the other again.
    assert_eq!(engine.statistics().prefix_cache_hits, 16);
    let stored = events(&mut engine);
    let [
        KvEvent::Stored { hashes: one, .. },
        KvEvent::Stored { hashes: two, .. },
    ] = &stored[..]
    else {
        panic!("{stored:?}");
    };
    assert_eq!(one[1..], two[..], "the same hash twice");

    // Something else takes all nine blocks.
    found(&mut engine, base(3, 143, 1), content(&[(5, 143)], 6));
    let removed = events(&mut engine);
    let copies = |hash| {
        let removed = removed.iter();
        removed
            .filter(|event| **event == KvEvent::Removed { hash })
            .count()
    };
    assert_eq!((copies(one[0]), copies(one[1])), (1, 2));
}

#[test]
fn a_copy_is_found_after_the_other_was_removed() {
    let mut engine = Engine::new(profile());
    let prompt = || content(&[(1, 32)], 2);
    for id in 1..=2 {
        // 31 of 32 tokens: the second block is computed and kept again.
        found(&mut engine, base(id, 32, 1), prompt());
    }
    // Six of nine blocks are new, the next two are both copies of the second block.
    found(&mut engine, base(3, 96, 1), content(&[(5, 96)], 6));
    assert_eq!(
        found(&mut engine, base(4, 33, 1), content(&[(1, 33)], 2)),
        32
    );
}

#[test]
fn a_step_publishes_one_numbered_batch_and_decoding_stores_block_by_block() {
    let mut engine = roomy();
    engine.keep_kv_events();
    submit_all(&mut engine, [base(1, 31, 18)]);
    while engine.next_step_end().is_some() {
        step(&mut engine);
    }
    let batches = engine.take_kv_batches();
    let sizes: Vec<_> = batches
        .iter()
        .map(|batch| match &batch.events[..] {
            [KvEvent::Stored { hashes, parent, .. }] => {
                (batch.sequence, hashes.len(), parent.is_some())
            }
            other => panic!("{other:?}"),
        })
        .collect();
    // The 32nd token is the first given: it is computed, and its block full, in the second step. The 49th is never computed.
    assert_eq!(sizes, [(0, 1, false), (1, 1, true), (2, 1, true)]);
    assert_eq!(batches[0].at, at_us(13_100));
    assert_eq!(batches[1].at, at_us(24_100));
}

#[test]
fn a_reset_forgets_all_that_is_cached_unless_a_request_holds_a_block() {
    let mut engine = roomy();
    engine.keep_kv_events();
    let prompt = || content(&[(1, 40)], 2);
    engine
        .submit_with(Instant::ZERO, base(1, 40, 1), prompt())
        .expect("fits");
    assert!(!engine.reset_prefix_cache(), "a step is under way");
    step(&mut engine);
    assert!(engine.reset_prefix_cache());
    assert_eq!(found(&mut engine, base(2, 40, 1), prompt()), 0);
    assert_eq!(events(&mut engine)[1], KvEvent::Cleared);
}

#[test]
fn segments_must_be_as_long_as_the_prompt() {
    let error = roomy()
        .submit_with(Instant::ZERO, base(1, 40, 1), content(&[(1, 30)], 2))
        .expect_err("30 of 40");
    assert_eq!(
        error.to_string(),
        "the segments of the prompt have 30 tokens: give as many as prompt_tokens, 40"
    );
}

/// The cache against a model of it that keeps plain lists: whatever the mix, the same blocks are found.
#[test]
fn whatever_is_sent_hits_and_usage_are_those_of_a_plain_model() {
    let mut random = picker_core::seed::Random::new(5);
    let mut engine = Engine::new(Profile {
        num_gpu_blocks: 25,
        ..profile()
    });
    // The next to be evicted first, and what each caches: (when, prompt, place). Requests run one at a time, so all are free.
    let mut queue: Vec<Option<(u64, u64, u32)>> = vec![None; 24];
    let mut total = 0;
    for id in 0..3_000 {
        let (name, tokens) = (random.below(6) as u64, 1 + random.below(140) as u32);
        let (full, all) = (tokens / 16, tokens.div_ceil(16));
        // Of equal blocks the one that was cached first is found.
        let find = |queue: &[Option<(u64, u64, u32)>], block| {
            let copies = queue.iter().flatten();
            let copies = copies.filter(|&&(_, held, place)| (held, place) == (name, block));
            copies.min().copied()
        };
        let hits: Vec<_> = (0..(tokens - 1) / 16)
            .map_while(|block| find(&queue, block))
            .collect();
        queue.retain(|held| held.is_none_or(|held| !hits.contains(&held)));
        let found_blocks = hits.len() as u32;
        queue.drain(..(all - found_blocks) as usize);
        let new = (found_blocks..all).map(|block| (block < full).then_some((id, name, block)));
        let table: Vec<_> = hits.into_iter().map(Some).chain(new).collect();
        for held in table.into_iter().rev() {
            match held {
                Some(_) => queue.push(held),
                None => queue.insert(0, held),
            }
        }
        let content = content(&[(name, tokens)], 100 + id);
        let expected = u64::from(found_blocks * 16);
        assert_eq!(found(&mut engine, base(id, tokens, 1), content), expected);
        assert_eq!(engine.statistics().gauges.kv_usage, 0.0);
        total += found_blocks;
    }
    assert!(total > 1_000, "the mix is meant to hit: {total}");
}
