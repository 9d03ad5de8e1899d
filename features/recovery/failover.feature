Feature: Failover
  When the worker of a strict task dies, the task goes on elsewhere, and its client sees the same bytes.

  @LO-203 @LO-204 @ORCH-3045
  Scenario: A worker is killed in mid-stream, and the other replica goes on
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 10 |
    When I submit task "moved" with
      | seed | 11 |
    And I follow task "moved"
    Then stream "moved" has 6 tokens
    When I kill the worker that runs task "moved"
    Then a metrics frame of stream "moved" has
      | failover  | 1     |
      | kv_warmth | false |
    And stream "moved" is "started", tokens, "end"
    When I submit task "undisturbed" with
      | seed | 11 |
    And I follow task "undisturbed"
    Then streams "moved" and "undisturbed" have the same tokens
    And the receipts of "moved" and "undisturbed" agree in "transcript_sha256"
    And the receipts of "moved" and "undisturbed" agree in "fingerprint"
    And the receipts of "moved" and "undisturbed" agree in "request_digest"
    And the log has a line "a task lost its worker and moves to another"
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="resumed"}        | 1 |
      | llorch_tasks_finished_total{pool_id="default",outcome="completed"} | 2 |
      | tasks_started_total{pool_id="default"}                             | 3 |
    And every series is in the metrics contract, with its labels and values

  @LO-203
  Scenario: The only worker is killed in mid-stream, and the restarted one goes on
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "moved"
    And I follow task "moved"
    Then stream "moved" has 5 tokens
    When I kill the worker that runs task "moved"
    Then stream "moved" is "started", tokens, "end"
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="resumed"} | 1 |

  @LO-203 @OC-CTRL-2030
  Scenario: A task is tried three times, and then its replicas are to blame
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 9, "fault": "die", "after": 2, "match": "haiku"}
      """
    When I submit task "cursed"
    And I follow task "cursed"
    Then stream "cursed" ends with error WORKER_RESET
    And stream "cursed" holds 2 token events
    And the fake engine has come to generations 3
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="exhausted"} | 1 |
      | tasks_started_total{pool_id="default"}                        | 3 |
      | llorch_tasks_finished_total{outcome="failed"}                 | 1 |

  @LO-203 @OC-CTRL-2030
  Scenario: Other bytes than those that were sent are never sent
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"text": ["seven ", "quiet ", "stones "], "fault": "die", "after": 2, "times": 1, "match": "haiku"}
      """
    When I submit task "torn"
    And I follow task "torn"
    Then stream "torn" ends with error WORKER_RESET
    And stream "torn" holds 2 token events
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="mismatch"} | 1 |

  @LO-209
  Scenario Outline: A best-effort task goes on behind what it has sent
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "fault": "die", "after": <after>, "times": 1, "match": "haiku"}
      """
    When I submit task "loose" with
      | determinism | best_effort |
      | max_tokens  | 3           |
    And I follow task "loose"
    Then stream "loose" is "started", tokens, "end"
    And stream "loose" holds 3 token events
    And the end of stream "loose" has
      | receipt.determinism    | best_effort |
      | receipt.continued_at.0 | <event>     |
      | tokens_out             | 3           |
    And the fake engine has come to generations <runs>
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="<outcome>"} | 1 |

    Examples:
      | after | event  | runs | outcome   |
      | 0     | absent | 2    | resumed   |
      | 1     | 2      | 2    | continued |
      | 3     | 4      | 1    | continued |

  @LO-209 @LO-204
  Scenario: The worker of a best-effort task is killed in mid-stream, and the other replica goes on
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 10 |
    When I submit task "loose" with
      | determinism | best_effort |
    And I follow task "loose"
    Then stream "loose" has 6 tokens
    When I kill the worker that runs task "loose"
    Then a metrics frame of stream "loose" has
      | failover | 1 |
    And stream "loose" is "started", tokens, "end"
    And the end of stream "loose" has
      | receipt.determinism    | best_effort |
      | receipt.continued_at.0 | present     |
    And the log has a line "a task lost its worker and moves to another"
    And the metrics have
      | llorch_failovers_total{pool_id="default",outcome="continued"}      | 1 |
      | llorch_tasks_finished_total{pool_id="default",outcome="completed"} | 1 |
    And every series is in the metrics contract, with its labels and values

  @LO-209 @OC-CTRL-2030
  Scenario: Nobody goes on in the middle of a call of a tool
    Given a scripted engine plays
      """
      {"rules": [{"match": "weather", "play": [
        {"text": "I look."}, {"call": {"n": 0, "name": "weather"}}, {"call": {"n": 0, "arguments": "{\"ci"}}, {"die": true}]}]}
      """
    And a daemon in front of the scripted engine
    When I submit the chat "torn"
      """
      {"messages": [{"role": "user", "content": "What is the weather in Bern?"}], "tools": [{"name": "weather"}], "determinism": "best_effort"}
      """
    And I follow task "torn"
    Then stream "torn" ends with error WORKER_RESET

  @LO-203 @ORCH-3026
  Scenario: A task that waits for another replica can be canceled
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "moving"
    And I follow task "moving"
    Then stream "moving" has 4 tokens
    When I kill the worker that runs task "moving"
    Then the replica "default-0" is taken out of service
    When I cancel task "moving"
    Then its body has
      | outcome | canceled |
    And stream "moving" ends with error CANCELED
    And the last event before the error of stream "moving" is the answer's "last_event_id"
