Feature: Determinism
  The same request on replicas of one fingerprint gives the same bytes, and the receipt in every end proves it.

  @ORCH-3045 @LO-204 @ORCH-3046
  Scenario: The same seed gives the same bytes on both replicas
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 30 |
    When I submit task "here" with
      | seed | 42 |
    And I submit task "there" with
      | seed | 42 |
    And I follow task "here"
    And I follow task "there"
    Then streams "here" and "there" have the same tokens
    And the receipts of "here" and "there" differ in "replica_id"
    And the receipts of "here" and "there" agree in "fingerprint"
    And the receipts of "here" and "there" agree in "request_digest"
    And the receipts of "here" and "there" agree in "transcript_sha256"
    When I submit task "again" with
      | seed | 42 |
    And I follow task "again"
    Then streams "here" and "again" have the same tokens

  @ORCH-3045
  Scenario: Another seed gives other bytes
    Given the shared daemon
    When I submit task "one" with
      | seed | 1 |
    And I submit task "two" with
      | seed | 2 |
    And I follow task "one"
    And I follow task "two"
    Then streams "one" and "two" have different tokens
    And the receipts of "one" and "two" differ in "request_digest"
    And the receipts of "one" and "two" agree in "fingerprint"

  @LO-204
  Scenario: A seed that was chosen by the daemon repeats the answer
    Given the shared daemon
    When I submit task "chosen"
    Then the answer is 202
    And I keep its "seed" as $SEED
    When I follow task "chosen"
    And I submit task "repeated" with
      | seed | $SEED |
    And I follow task "repeated"
    Then streams "chosen" and "repeated" have the same tokens
    And the receipts of "chosen" and "repeated" agree in "request_digest"

  @ORCH-3045
  Scenario: Who asked, and with which priority, does not change the bytes
    Given the shared daemon
    When I submit task "urgent" with
      | seed     | 7           |
      | priority | interactive |
    And I submit task "patient" with
      | seed       | 7                                    |
      | priority   | batch                                |
      | session_id | 22222222-aaaa-4bbb-8ccc-000000000001 |
    And I follow task "urgent"
    And I follow task "patient"
    Then streams "urgent" and "patient" have the same tokens
    And the receipts of "urgent" and "patient" agree in "request_digest"

  @LO-204
  Scenario: The receipt says what the bytes depend on
    Given the shared daemon
    When I submit task "receipt" with
      | seed | 0 |
    And I follow task "receipt"
    Then the end of stream "receipt" has
      | receipt.seed              | 0                                                                       |
      | receipt.determinism       | strict                                                                  |
      | receipt.fingerprint       | /^fp-[0-9a-f]{16,64}$/                                                  |
      | receipt.request_digest    | /^[0-9a-f]{64}$/                                                        |
      | receipt.transcript_sha256 | /^[0-9a-f]{64}$/                                                        |
      | receipt.replica_id        | /^default-[01]$/                                                        |
      | receipt.engine_version    | /./                                                                     |
      | receipt.model_digest      | sha256:f7532452c84534d102b6c3f8a796dbafbf2cb6c963a79a0654b4fd9cecbe742e |
      | decode_time_ms            | >= 0                                                                    |
    And I send GET "/v1/tasks/{receipt}"
    And its body has
      | end.receipt.seed         | 0                |
      | end.receipt.model_digest | /^sha256:f7532452/ |

  @LO-205
  Scenario: A best-effort task says so
    Given the shared daemon
    When I submit task "loose" with
      | determinism | best_effort |
    Then its body has
      | determinism | best_effort |
    When I follow task "loose"
    Then the end of stream "loose" has
      | receipt.determinism | best_effort |

  @LO-205
  Scenario: Where replicas have several slots, strict is refused and best effort the default
    Given a fake engine with 4 slots
    And a daemon in front of a fake engine whose pool has
      | slots | 4 |
    When I submit task "strict" with
      | determinism | strict |
    Then the answer is 400 INVALID_PARAMS
    And its message says "one slot"
    When I submit task "unasked"
    Then its body has
      | determinism | best_effort |
    When I follow task "unasked"
    Then the end of stream "unasked" has
      | receipt.determinism | best_effort |

  @LO-808 @LO-807
  Scenario: A model that is overwritten while it is served is another one from the next task on
    Given a pool "default" of built-in workers on a copy of the bundled model with
      | replicas | 1 |
    And a daemon
    When I submit task "before" with
      | seed | 42 |
    And I follow task "before"
    Then stream "before" ends with end
    When 4000 bytes of the copied model are overwritten
    And the replica "default-0" is restarted and ready again
    And I submit task "after" with
      | seed | 42 |
    And I follow task "after"
    Then streams "before" and "after" have different tokens
    And the receipts of "before" and "after" differ in "fingerprint"
    And the receipts of "before" and "after" differ in "model_digest"
    And the receipts of "before" and "after" agree in "request_digest"

  @LO-808
  Scenario: A task that runs while its model is overwritten gets no receipt
    Given a pool "default" of built-in workers on a copy of the bundled model with
      | pace | 4 |
    And a daemon
    When I submit task "cut" with
      | seed | 42 |
    And I follow task "cut"
    And stream "cut" has 2 tokens
    And 4000 bytes of the copied model are overwritten
    Then stream "cut" ends with error WORKER_RESET
    And the error of stream "cut" has
      | retriable | true                                                 |
      | message   | /changed while the task ran.*: send the task again$/ |

  @LO-206 @LO-441 @LO-443
  Scenario: A strict task reuses whole pieces of an earlier prompt, and gives the bytes of a cold start
    Given a daemon
    And I note the metrics
    When I submit task "first" with
      | seed | 7 |
    And I follow task "first"
    Then stream "first" ends with end
    When I submit task "warm" with
      | seed | 7 |
    And I follow task "warm"
    Then the end of stream "warm" has
      | receipt.tokens_cached | 16 |
    When I submit task "cold" with
      | seed    | 7    |
      | kv_hint | cold |
    And I follow task "cold"
    Then streams "warm" and "cold" have the same tokens
    And the receipts of "warm" and "cold" differ in "tokens_cached"
    And the receipts of "warm" and "cold" agree in "transcript_sha256"
    And the receipts of "warm" and "cold" agree in "request_digest"
    And the receipts of "warm" and "cold" agree in "fingerprint"
    And the metrics have moved by
      | llorch_prompt_tokens_reused_total{pool_id="default",determinism="strict"} | 16 |
    When I send GET "/v1/capabilities"
    Then its body has
      | pools.0.reuse_piece | 16 |

  @LO-441
  Scenario: Where reuse is off, every strict task starts cold
    Given a daemon whose pool has
      | determinism | {reuse: off} |
    When I submit task "first" with
      | seed | 7 |
    And I follow task "first"
    Then stream "first" ends with end
    When I submit task "again" with
      | seed | 7 |
    And I follow task "again"
    Then the receipts of "first" and "again" agree in "tokens_cached"
    And streams "first" and "again" have the same tokens

  @LO-942
  Scenario: What a fingerprint stands for can be asked
    Given the shared daemon
    When I send GET "/v1/pools/default/health"
    Then I keep its "replicas.0.fingerprint" as $PRINT
    When I send GET "/v1/fingerprints/$PRINT"
    Then the answer is 200
    And its body has
      | id           | $PRINT   |
      | facts.engine | llamacpp |
      | facts.slots  | 1        |
    When I send GET "/v1/fingerprints/fp-0123456789abcdef"
    Then the answer is 404 NOT_FOUND
    And its message says "no replica of this server had the fingerprint"
