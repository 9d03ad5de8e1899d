Feature: A drained pool keeps its tasks
  Tasks that a drain leaves undone wait until the pool is back, whatever brings it back.

  @ORCH-2101 @LO-202 @LO-203
  Scenario: A second drain brings the deadline nearer, and a restart brings the pool back
    Given a daemon whose pool has
      | pace | 15 |
    When I submit task "cut" with
      | seed | 7 |
    And I follow task "cut" as "before"
    Then stream "before" has 3 tokens
    When I submit task "queued"
    And I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 60000}
      """
    Then the answer is 202
    And its body has
      | running | 1 |
      | queued  | 1 |
    When I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 0}
      """
    Then the answer is 202
    And "/v1/pools/default/health" has come to
      | replicas.0.state | stopped |
      | replicas.0.cards | []      |
    When I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 5}
      """
    Then the answer is 202
    And its body has
      | draining | true |
      | running  | 0    |
    And new tasks are refused with 503 POOL_UNREADY
    And its body has
      | retriable | false   |
      | pool_id   | default |
    When I send GET "/readyz"
    Then the answer is 503 POOL_UNREADY
    When I kill the daemon
    Then stream "before" breaks off
    When I start the daemon again
    And I follow task "cut" as "after", from where "before" broke off
    And I follow task "queued"
    And I submit task "undisturbed" with
      | seed | 7 |
    And I follow task "undisturbed"
    Then streams "after" and "undisturbed" have the same tokens
    And the receipts of "after" and "undisturbed" agree in "transcript_sha256"
    And stream "queued" is "started", tokens, "end"

  @ORCH-2101 @ORCH-3026
  Scenario: A task of a drained pool can be canceled
    Given a daemon whose pool has
      | pace | 15 |
    When I submit task "running"
    And I follow task "running"
    Then stream "running" has 2 tokens
    When I submit task "queued"
    And I follow task "queued"
    And I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 0}
      """
    And "/v1/pools/default/health" has come to
      | replicas.0.state | stopped |
    And I cancel task "running"
    Then its body has
      | outcome | canceled |
    And stream "running" ends with error CANCELED
    When I cancel task "queued"
    Then stream "queued" ends with error CANCELED

  @ORCH-2101
  Scenario: Engines that somebody else runs are brought back by the pool's own ref
    Given a daemon in front of a fake engine
    And the fake engine's script is
      """
      {"tokens": 3, "match": "haiku"}
      """
    When I post to "/v1/pools/default/drain"
      """
      {"deadline_ms": 1000}
      """
    Then the answer is 202
    And "/v1/pools/default/health" has come to
      | pool.draining    | true    |
      | replicas.0.state | stopped |
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:other.gguf"}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "run by somebody else"
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "label"}
      """
    Then the answer is 200
    And "/v1/pools/default/health" has come to
      | pool.ready    | true  |
      | pool.draining | false |
    And the daemon still serves

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
