Feature: Pools are operated while they serve
  Drained, given another model, changed with the configuration, and explained, and no task is lost by it.

  @ORCH-2101 @ORCH-3031 @LO-203
  Scenario: A drained pool ends what it runs and keeps its queue
    Given a daemon whose pool has
      | pace | 20 |
    When I submit task "running"
    And I follow task "running"
    Then stream "running" has 2 tokens
    When I submit task "waiting"
    And I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 20000}
      """
    Then the answer is 202
    And its body has
      | pool_id     | default |
      | draining    | true    |
      | running     | 1       |
      | queued      | 1       |
      | deadline_ms | 20000   |
    And stream "running" ends with end
    And "/v1/pools/default/health" has come to
      | pool.ready        | false   |
      | pool.draining     | true    |
      | pool.queue.depth  | 1       |
      | replicas.0.state  | stopped |
    And new tasks are refused with 503 POOL_UNREADY
    And task "waiting" is queued
    When a copy of the model as "other.gguf"
    And I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:other.gguf"}
      """
    Then the answer is 200
    And its body has
      | pool_id   | default         |
      | model.ref | file:other.gguf |
    When I follow task "waiting"
    Then stream "waiting" is "started", tokens, "end"
    And "/v1/pools/default/health" has come to
      | pool.ready        | true                  |
      | pool.draining     | false                 |
      | pool.model.ref    | /other.gguf$/         |
      | pool.lifecycle    | pinned                |
      | replicas.0.estimate_bytes | /^[1-9][0-9]+$/ |
      | replicas.0.observed_bytes | /^[1-9][0-9]+$/ |

  @ORCH-2101 @LO-203
  Scenario: What a drain cuts off goes on byte for byte once the pool is back
    Given a daemon whose pool has
      | pace | 15 |
    When I submit task "cut" with
      | seed | 7 |
    And I follow task "cut"
    Then stream "cut" has 3 tokens
    When I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 0}
      """
    Then the answer is 202
    And "/v1/pools/default/health" has come to
      | replicas.0.state | stopped |
    And task "cut" is running
    When a copy of the model as "same.gguf"
    And I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:same.gguf"}
      """
    Then the answer is 200
    And stream "cut" ends with end
    When I submit task "undisturbed" with
      | seed | 7 |
    And I follow task "undisturbed"
    Then streams "cut" and "undisturbed" have the same tokens

  @ORCH-2101 @ORCH-3031
  Scenario: A reload that fails leaves the old model, and the queue, in place
    Given a daemon whose pool has
      | pace | 15 |
    And the first 300000 bytes of the model as "broken.gguf"
    When I submit task "running"
    And I submit task "waiting"
    And I follow task "running"
    Then stream "running" has 1 token
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:no-such-file.gguf"}
      """
    Then the answer is 404 MODEL_NOT_FOUND
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:broken.gguf"}
      """
    Then the answer is 503 POOL_UNAVAILABLE
    And its message says "the old one still serves"
    And "/v1/pools/default/health" has come to
      | pool.ready     | true         |
      | pool.model.ref | /haiku.gguf$/ |
    And stream "running" ends with end
    When I follow task "waiting"
    Then stream "waiting" is "started", tokens, "end"

  @ORCH-2101
  Scenario Outline: What cannot be operated is refused
    Given the shared daemon
    When I post to "<path>"
      """
      <body>
      """
    Then the answer is <answer>
    And its message says "<says>"

    Examples:
      | path                     | body                                   | answer              | says        |
      | /v1/pools/attic/drain    | {"deadline_ms": 1}                     | 404 NOT_FOUND       | default     |
      | /v1/pools/attic/reload   | {"new_model_ref": "file:x"}            | 404 NOT_FOUND       | default     |
      | /v1/pools/default/drain  | {"deadline_ms": -1}                    | 400 INVALID_PARAMS  | deadline_ms |
      | /v1/pools/default/drain  | {}                                     | 400 INVALID_PARAMS  | deadline_ms |
      | /v1/pools/default/reload | {"new_model_ref": "hf:org/repo"}       | 403 POLICY_DENIED   | outbound off |
      | /v1/pools/default/reload | {"new_model_ref": "haiku"}             | 404 MODEL_NOT_FOUND | file:PATH   |
      | /v1/placement/explain    | {"model_ref": "gpt"}                   | 404 MODEL_NOT_FOUND | haiku       |

  @LO-502
  Scenario: Placement is explained without a task
    Given the shared daemon
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku"}
      """
    Then the answer is 200
    And its body has
      | pool_id              | default          |
      | replica_id           | /^default-[01]$/ |
      | candidates.0.pool_id | default          |
      | evictions            | []               |
    And its body lists 2 "candidates"
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku", "ctx": 100000}
      """
    Then the answer is 200
    And its body has
      | candidates.0.chosen    | false                                                |
      | candidates.0.reasons.0 | /has a context of 256 tokens, fewer than the 100000/ |

  @ORCH-1101
  Scenario: A machine without a GPU says so
    Given the shared daemon
    When I send GET "/v1/gpus"
    Then the answer is 200
    And its body has
      | gpus    | []                |
      | problem | /NVIDIA driver/   |
    And the log has a line "no usable GPU"

  @LO-503
  Scenario: A pool on demand is loaded by a task, and leaves when nobody needs it
    Given a pool "resting" of built-in workers with
      | lifecycle | on_demand |
      | idle_ttl  | 1s        |
    And a daemon
    When I send GET "/readyz"
    Then the answer is 200
    And "/v1/pools/resting/health" has come to
      | pool.lifecycle | on_demand |
      | pool.loaded    | false     |
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "haiku"}
      """
    Then the answer is 200
    And its body has
      | pool_id                | resting                 |
      | candidates.1.reasons.0 | /its model is not loaded/ |
    When I submit task "first"
    And I follow task "first"
    Then stream "first" ends with end
    And "/v1/pools/resting/health" has come to
      | pool.loaded | false |
    When I submit task "second"
    And I follow task "second"
    Then stream "second" is "started", tokens, "end"
    And the metrics have
      | llorch_swaps_total{pool_id="resting",direction="in"} | 2 |

  @LO-503 @LO-202
  Scenario: A task that waits for its model survives a kill
    Given a pool "resting" of built-in workers with
      | lifecycle | on_demand |
    And a daemon
    When I submit task "early"
    And I kill the daemon
    And I start the daemon again
    And I follow task "early"
    Then stream "early" is "started", tokens, "end"

  @ORCH-2101
  Scenario: The configuration is read again
    Given a daemon
    When the configuration has the pool "second" of built-in workers with
      | model | {id: other, ref: "file:$DIR/other.gguf"} |
    And a copy of the model as "other.gguf"
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | changed          | ["pools.second"] |
      | restart_required | []               |
    And "/v1/pools/second/health" has come to
      | pool.ready | true |
    When I submit task "there" with
      | model_ref | "other" |
    And I follow task "there"
    Then stream "there" is "started", tokens, "end"
    When the configuration has no pool "second"
    And I send the daemon SIGHUP
    Then the log has a line "pools that are no longer configured have ended"
    When I send GET "/v1/pools/second/health"
    Then the answer is 404 NOT_FOUND
    When the configuration has the settings
      | log | {level: info} |
    And I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | restart_required | ["log.level"] |
    When the configuration has the settings
      | log | {level: loud} |
    And I send POST "/v1/config/reload"
    Then the answer is 400 INVALID_PARAMS
    And its message says "nothing has changed"
    And its message says "loud"
    And the daemon still serves
