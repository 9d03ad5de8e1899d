Feature: Sessions
  A conversation goes back to the worker that still has its KV, within the session's time and turns. It is told that it is warm only if it is.

  @ORCH-3021 @ORCH-3022 @ORCH-3009
  Scenario: The second turn of a session finds its KV
    Given a daemon whose pool has
      | pace | 10 |
    And I note the metrics
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000001 |
      | determinism | best_effort                          |
      | max_tokens  | 16                                   |
    And I follow task "one"
    Then stream "one" ends with end
    When I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000001"
    Then the answer is 200
    And its body has
      | turns            | 1         |
      | max_turns        | 8         |
      | ttl_remaining_ms | > 500000  |
      | pool_id          | default   |
      | replica_id       | default-0 |
      | kv_warmth        | true      |
      | kv_bytes         | > 0       |
    When I submit task "two" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000001 |
      | determinism | best_effort                          |
      | max_tokens  | 20                                   |
    And I follow task "two"
    Then a metrics frame of stream "two" has
      | kv_warmth | true |
    And stream "two" ends with end
    And the metrics have moved by
      | llorch_session_turns_total{kv="cold"} | 1 |
      | llorch_session_turns_total{kv="warm"} | 1 |
    And the metrics have
      | kv_cache_usage_ratio{pool_id="default"} | 0.1484375 |
      | llorch_sessions                         | 1         |

  @ORCH-3021 @ORCH-3045 @LO-206
  Scenario: A strict turn gives the bytes it always gives, whatever KV it finds, and leaves its own
    Given a daemon
    When I submit task "alone" with
      | seed | 7 |
    And I follow task "alone"
    Then stream "alone" ends with end
    When I submit task "warms" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000002 |
      | determinism | best_effort                          |
    And I follow task "warms"
    Then stream "warms" ends with end
    When I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000002"
    Then its body has
      | kv_warmth | true |
    When I submit task "strict" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000002 |
      | determinism | strict                               |
      | kv_hint     | reuse                                |
      | seed        | 7                                    |
    And I follow task "strict"
    Then stream "strict" ends with end
    And streams "alone" and "strict" have the same tokens
    And the receipts of "alone" and "strict" agree in "transcript_sha256"
    When I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000002"
    Then its body has
      | turns     | 2    |
      | kv_warmth | true |

  @ORCH-3009
  Scenario: A session stays on its replica when it can, and its turns run one after the other
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 10 |
    When I submit task "elsewhere" with
      | max_tokens | 20 |
    And I follow task "elsewhere"
    Then stream "elsewhere" has begun
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000003 |
      | determinism | best_effort                          |
      | max_tokens  | 4                                    |
    And I follow task "one"
    Then stream "one" ends with end
    And stream "elsewhere" ends with end
    And the receipts of "elsewhere" and "one" differ in "replica_id"
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku", "determinism": "best_effort", "session_id": "11111111-aaaa-4bbb-8ccc-000000000003"}
      """
    Then its body has
      | candidates.1.reasons.0 | it holds the KV of the session's last turn |
    When I submit task "two" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000003 |
      | determinism | best_effort                          |
      | max_tokens  | 20                                   |
    And I follow task "two"
    Then the receipts of "one" and "two" agree in "replica_id"
    And stream "two" ends with end
    When I submit task "fills" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000003 |
      | determinism | best_effort                          |
      | max_tokens  | 20                                   |
    Then the answer is 202
    And task "fills" is running
    When I submit task "early" with
      | session_id | 11111111-aaaa-4bbb-8ccc-000000000003 |
    Then the answer is 409 CONFLICT
    And its message says "a turn of session 11111111-aaaa-4bbb-8ccc-000000000003 is on"
    When I send DELETE "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000003"
    Then the answer is 409 CONFLICT
    When I follow task "fills"
    Then stream "fills" ends with end

  @ORCH-3021 @ORCH-3009
  Scenario Outline: A session survives <what>, but for its warmth
    Given a daemon
    When I post to "/v1/sessions"
      """
      {"session_id": "11111111-aaaa-4bbb-8ccc-000000000004", "ttl_ms": 3600000, "max_turns": 3}
      """
    Then the answer is 201
    And its headers have
      | Location | /v1/sessions/11111111-aaaa-4bbb-8ccc-000000000004 |
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000004 |
      | determinism | best_effort                          |
    And I follow task "one"
    Then stream "one" ends with end
    When I <end> the daemon
    And I start the daemon again
    And I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000004"
    Then its body has
      | turns            | 1         |
      | max_turns        | 3         |
      | ttl_remaining_ms | > 3000000 |
      | replica_id       | default-0 |
      | kv_warmth        | false     |

    Examples:
      | what      | end  |
      | a kill -9 | kill |
      | a stop    | stop |

  @ORCH-3021
  Scenario: A session ends after its turns or its time, and says what to do
    Given the settings
      | sessions | {ttl: 2s, max_turns: 1} |
    And a daemon
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000005 |
      | determinism | best_effort                          |
    And I follow task "one"
    Then stream "one" ends with end
    When I submit task "two" with
      | session_id | 11111111-aaaa-4bbb-8ccc-000000000005 |
    Then the answer is 409 CONFLICT
    And its message says "has had its 1 turns: begin another one under a new id"
    When I post to "/v1/sessions"
      """
      {"session_id": "11111111-aaaa-4bbb-8ccc-000000000006", "ttl_ms": 1000}
      """
    Then "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000006" has come to
      | ttl_remaining_ms | 0 |
    When I submit task "late" with
      | session_id | 11111111-aaaa-4bbb-8ccc-000000000006 |
    Then the answer is 409 CONFLICT
    And its message says "after its time of 1s"

  @ORCH-3021
  Scenario: A deleted session leaves no KV, and its id is free
    Given a daemon
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000007 |
      | determinism | best_effort                          |
    And I follow task "one"
    Then stream "one" ends with end
    When I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000007"
    Then its body has
      | kv_warmth | true |
    When I note the metrics
    And I send DELETE "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000007"
    Then the answer is 204
    When I send GET "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000007"
    Then the answer is 404 NOT_FOUND
    When I send DELETE "/v1/sessions/11111111-aaaa-4bbb-8ccc-000000000007"
    Then the answer is 404 NOT_FOUND
    When I submit task "again" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000007 |
      | determinism | best_effort                          |
    And I follow task "again"
    Then stream "again" ends with end
    And the metrics have moved by
      | llorch_session_turns_total{kv="cold"} | 1 |
      | llorch_session_turns_total{kv="warm"} | 0 |

  @ORCH-3009
  Scenario: A session whose replica is busy moves, and is cold
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 10 |
    When I submit task "one" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000008 |
      | determinism | best_effort                          |
      | max_tokens  | 4                                    |
    And I follow task "one"
    Then stream "one" ends with end
    When I submit task "in-the-way" with
      | max_tokens | 20 |
    Then task "in-the-way" is running
    When I note the metrics
    And I submit task "two" with
      | session_id  | 11111111-aaaa-4bbb-8ccc-000000000008 |
      | determinism | best_effort                          |
      | max_tokens  | 4                                    |
    And I follow task "two"
    Then stream "two" ends with end
    And the receipts of "one" and "two" differ in "replica_id"
    And the metrics have moved by
      | llorch_session_turns_total{kv="cold"} | 1 |
