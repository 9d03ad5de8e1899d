Feature: Admission
  A task is accepted, with an honest picture of its wait, or it is refused before it is queued.

  @ORCH-2001 @LO-102
  Scenario: A task with nothing but a model and a prompt is accepted
    Given the shared daemon
    When I post to "/v1/tasks"
      """
      {"model_ref": "haiku", "prompt": "Write a haiku about rain containing \"seven\".\n\n"}
      """
    Then the answer is 202
    And its body has
      | task_id            | /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/ |
      | pool_id            | default                                                                 |
      | queue_position     | >= 0                                                                    |
      | predicted_start_ms | >= 0                                                                    |
      | backoff_ms         | 0                                                                       |
      | seed               | >= 0                                                                    |
      | determinism        | strict                                                                  |
    And its headers have
      | Location | /^/v1/tasks/[0-9a-f-]{36}$/ |

  @LO-102
  Scenario: Every field may be given
    Given the shared daemon
    When I submit task "full" with
      | task_id                 | admission-full                                                      |
      | workload                | completion                                                          |
      | engine                  | llamacpp                                                            |
      | session_id              | 3f8a1c9e-54b7-4d5a-9d0b-7a2f6f1c2e10                                 |
      | priority                | batch                                                               |
      | messages                | [{"role": "user", "content": "Write a haiku about rain, please."}]  |
      | seed                    | 4294967294                                                          |
      | params                  | {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repeat_penalty": 1.1, "stop": ["#"]} |
      | sampler_profile_version | v1                                                                  |
      | determinism             | strict                                                              |
      | max_tokens              | 20                                                                  |
      | deadline_ms             | 60000                                                               |
      | ctx                     | 256                                                                 |
      | expected_tokens         | 20                                                                  |
      | placement               | {"mode": "pin", "pool_id": "default", "avoid": []}                   |
      | kv_hint                 | cold                                                                |
      | output_mode             | text                                                                |
    Then the answer is 202
    And its body has
      | task_id | admission-full |
      | seed    | 4294967294     |
    When I follow task "full"
    Then stream "full" is "started", tokens, "end"
    And the end of stream "full" has
      | receipt.seed | 4294967294 |
      | tokens_out   | <= 20      |

  @LO-102
  Scenario: The model's ref names its pool as its id does
    Given the shared daemon
    When I submit task "by-ref" with
      | model_ref | file:$MODEL |
    Then the answer is 202
    When I follow task "by-ref"
    Then stream "by-ref" is "started", tokens, "end"

  @ORCH-3004 @OC-CORE-1003 @OC-CORE-1004
  Scenario: Interactive tasks go before batch tasks, and each kind in its order
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit an interactive task "first"
    And the fake engine has come to busy 1
    And I submit a batch task "b1"
    And I submit a batch task "b2"
    And I submit an interactive task "i1"
    And I submit an interactive task "i2"
    Then task "i1" stands at position 0
    And task "i2" stands at position 1
    And task "b1" stands at position 2
    And task "b2" stands at position 3
    When the fake engine releases 5 tokens
    Then the log places the tasks in the order "first, i1, i2, b1, b2"
    And task "b2" is completed

  @ORCH-2001 @ORCH-3029
  Scenario: The 202 counts the tasks ahead, and predicts from what tasks took
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "interval_ms": 500}
      """
    When I submit task "measured"
    Then task "measured" is completed
    When the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "next"
    Then its body has
      | queue_position     | 0   |
      | predicted_start_ms | > 0 |
    When I submit task "after"
    Then its body has
      | queue_position     | 1       |
      | predicted_start_ms | >= 1000 |
    When I follow task "after"
    Then stream "after" begins with the figures of its admission
    And a metrics frame of stream "after" has
      | phase          | queued |
      | queue_position | 1      |
    When the fake engine releases 3 tokens
    Then stream "after" is "started", tokens, "end"

  @ORCH-2001
  Scenario: Before anything was measured, a prediction is 0 and not a guess
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "next"
    Then its body has
      | queue_position     | 0 |
      | predicted_start_ms | 0 |
      | backoff_ms         | 0 |

  @ORCH-3014
  Scenario: A deadline that the measured wait already misses is refused
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "interval_ms": 100}
      """
    When I submit task "measured"
    Then task "measured" is completed
    When the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    And I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "waiting"
    And I submit task "hopeless" with
      | deadline_ms | 1 |
    Then the answer is 400 DEADLINE_UNMET
    And its message says "deadline of 1 ms"

  @ORCH-3005
  Scenario: A task whose deadline passes in the queue leaves it
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 1}
      """
    When I submit task "measured"
    Then task "measured" is completed
    When the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    And I submit task "running"
    And the fake engine has come to busy 1
    And I submit task "late" with
      | deadline_ms | 5000 |
    Then the answer is 202
    When I follow task "late"
    Then stream "late" ends with error DEADLINE_UNMET
    And stream "late" is "started", "error"
    And task "late" is failed
    When the fake engine releases 1 token
    Then task "running" is completed
    And the log never places task "late"

  @ORCH-3010
  Scenario: Without a Ready replica a task is refused and may be sent again
    Given a daemon whose engine is down
    When I submit task "refused"
    Then the answer is 503 POOL_UNREADY
    And its body has
      | retriable      | true     |
      | retry_after_ms | > 0      |
      | pool_id        | default  |
      | engine         | llamacpp |

  @OC-CTRL-2013
  Scenario: A pin to a pool that does not exist fails and names those that do
    Given the shared daemon
    When I submit task "pinned" with
      | placement | {"mode": "pin", "pool_id": "attic"} |
    Then the answer is 404 NOT_FOUND
    And its message says "default"

  @OC-CTRL-2013
  Scenario: A pin never falls back, a preference does
    Given a fake engine with 1 slot
    And a pool "near" in front of the fake engine with
      | timeouts | {wall: 1m, idle: 10s} |
    And a pool "far" of built-in workers with
      | replicas | 1 |
    And a daemon
    When I submit task "pinned" with
      | placement | {"mode": "pin", "pool_id": "near"} |
    Then its body has
      | pool_id | near |
    When I submit task "preferring" with
      | placement | {"mode": "prefer", "pool_id": "far"} |
    Then its body has
      | pool_id | far |
    When I submit task "avoiding" with
      | placement | {"mode": "auto", "avoid": ["far"]} |
    Then its body has
      | pool_id | near |
    When the fake engine is not healthy
    Then the replica "near-0" is taken out of service
    When I submit task "pinned-again" with
      | placement | {"mode": "pin", "pool_id": "near"} |
    Then the answer is 503 POOL_UNREADY
    When I submit task "preferring-again" with
      | placement | {"mode": "prefer", "pool_id": "near"} |
    Then its body has
      | pool_id | far |

  @OC-CORE-1016
  Scenario Outline: What no pool can do is refused with the reason
    Given the shared daemon
    When I submit task "unfit" with
      | <field> | <value> |
    Then the answer is 400 INVALID_PARAMS
    And its message says "<reason>"

    Examples:
      | field                   | value     | reason               |
      | workload                | embedding | serves completion    |
      | engine                  | vllm      | runs the engine      |
      | sampler_profile_version | v9        | sampler profile v1   |
      | ctx                     | 100000    | context of 256       |

  @ORCH-2001
  Scenario: Tasks are listed by state, the newest first
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"stepped": true, "tokens": 1}
      """
    When I submit task "one"
    And the fake engine has come to busy 1
    And I submit task "two"
    And I submit task "three"
    And I send GET "/v1/tasks?state=queued"
    Then the answer is 200
    And its body lists 2 "tasks"
    And its body has
      | tasks.0.task_id | {three} |
      | tasks.1.task_id | {two}   |
    When I send GET "/v1/tasks?limit=1"
    Then its body lists 1 "tasks"
    When I send GET "/v1/tasks?state=running"
    Then its body has
      | tasks.0.task_id    | {one}     |
      | tasks.0.replica_id | default-0 |
      | tasks.0.tokens_in  | > 0       |
