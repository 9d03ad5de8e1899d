Feature: A pool gets another model under load
  The pool's tasks stay in line, and all of them end.

  @ORCH-2101 @ORCH-3031
  Scenario: No task is lost by two reloads under load
    Given a daemon whose pool has
      | replicas | 2  |
      | pace     | 25 |
    And a copy of the model as "second.gguf"
    And a copy of the model as "third.gguf"
    When I submit tasks "a, b, c, d, e, f" and follow them
    Then stream "a" has 2 tokens
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:second.gguf"}
      """
    Then the answer is 200
    And its body has
      | model.id           | haiku            |
      | model.ref          | file:second.gguf |
      | previous_model_ref | /haiku\.gguf$/   |
    When I post to "/v1/pools/default/reload"
      """
      {"new_model_ref": "file:third.gguf"}
      """
    Then the answer is 200
    And its body has
      | previous_model_ref | /second\.gguf$/ |
    When I submit task "again" with
      | seed | 0 |
    And I follow task "again"
    Then streams "a, b, c, d, e, f, again" are all "started", tokens, "end"
    And streams "a" and "again" have the same tokens
    And the receipts of "a" and "again" agree in "fingerprint"
    And "/v1/pools/default/health" has come to
      | pool.model.ref     | /third\.gguf$/ |
      | pool.replicas      | 2              |
      | replicas.0.state   | ready          |
      | replicas.0.load_ms | > 0            |
      | replicas.1.state   | ready          |

  @ORCH-2101
  Scenario: A pool is changed by one at a time
    Given the cards of the reference box
    And a pool "writer" of a model of 5 GiB with
      | pace | 20 |
    And a model file "other" of 5 GiB
    And a worker of the model "other" has to wait as it loads
    And a daemon
    When meanwhile I post to "/v1/pools/writer/reload"
      """
      {"new_model_ref": "file:$DIR/other.gguf"}
      """
    Then 2 workers run for the replica "writer-0"
    When I post to "/v1/pools/writer/reload"
      """
      {"new_model_ref": "file:$DIR/other.gguf"}
      """
    Then the answer is 409 CONFLICT
    And its body has
      | retriable      | true   |
      | retry_after_ms | > 0    |
      | pool_id        | writer |
    When I post to "/v1/pools/writer/drain"
      """
      {"deadline_ms": 0}
      """
    Then the answer is 409 CONFLICT
    When the configuration has the pool "more" of built-in workers with
      | model | {id: more, ref: "file:$MODEL"} |
    And I send POST "/v1/config/reload"
    Then the answer is 409 CONFLICT
    When I submit task "served" with
      | model_ref | writer |
    And I follow task "served"
    Then stream "served" is "started", tokens, "end"
    When a worker of the model "other" may load
    Then the answer to that is 200
    And "/v1/pools/writer/health" has come to
      | pool.ready     | true           |
      | pool.model.ref | /other\.gguf$/ |
    When I send POST "/v1/config/reload"
    Then the answer is 200
    And its body has
      | changed | ["pools.more"] |
    And "/v1/pools/writer/health" has come to
      | pool.model.ref | /other\.gguf$/ |

  @ORCH-2101 @ORCH-3031 @LO-806
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
    Then the answer is 400 INVALID_PARAMS
    And its message says "the old one still serves"
    And "/v1/pools/default/health" has come to
      | pool.ready     | true         |
      | pool.model.ref | /haiku.gguf$/ |
    And stream "running" ends with end
    When I follow task "waiting"
    Then stream "waiting" is "started", tokens, "end"
