Feature: Models that are loaded on demand
  There are more models than the cards hold at once. Each is loaded when a task needs it, and makes room when it is idle.

  @LO-503 @LO-502
  Scenario: An idle pool makes room for a task's model
    Given the cards of the reference box
    And a pool "first" of a model of 14 GiB with
      | lifecycle | on_demand |
    And a pool "second" of a model of 14 GiB with
      | lifecycle | on_demand |
    And the daemon runs
    Then replica "first-0" is stopped
    When I send GET "/readyz"
    Then the answer is 200
    When I submit an interactive task "one" for "first"
    And I follow task "one"
    Then stream "one" is "started", tokens, "end"
    And replica "first-0" is ready on card "0"
    When I post to "/v1/placement/explain"
      """
      {"model_ref": "second"}
      """
    Then the answer is 200
    And its body has
      | pool_id                | second        |
      | replica_id             | absent        |
      | evictions.0.pool_id    | first         |
      | evictions.0.replica_id | first-0       |
      | evictions.0.frees_bytes | > 14000000000 |
    Given a worker of the model "second" has to wait as it loads
    When I submit an interactive task "two" for "second"
    And I follow task "two"
    Then a metrics frame of stream "two" has
      | phase | loading |
    And replica "second-0" is loading
    And replica "first-0" is stopped
    When a worker of the model "second" may load
    Then stream "two" is "started", tokens, "end"
    And the log has a line "an on-demand pool is to leave the memory" with
      | pool_id | first |
    And the metrics have
      | llorch_swaps_total{pool_id="first",direction="in"}   | 1 |
      | llorch_swaps_total{pool_id="first",direction="out"}  | 1 |
      | llorch_swaps_total{pool_id="second",direction="in"}  | 1 |
    And every series is in the metrics contract, with its labels and values

  @LO-503
  Scenario: A pool is not unloaded while it generates
    Given the cards of the reference box
    And the settings
      | swap | {max_wait: 1s, max_wait_behind_batch: 1s, min_turn: 1s} |
    And a pool "first" of a model of 14 GiB with
      | lifecycle | on_demand |
      | pace      | 10        |
    And a pool "second" of a model of 14 GiB with
      | lifecycle | on_demand |
    And the daemon runs
    When I submit an interactive task "one" for "first"
    And I follow task "one"
    Then stream "one" has 2 tokens
    When I submit an interactive task "two" for "second"
    And I follow task "two"
    Then stream "one" is "started", tokens, "end"
    And stream "two" is "started", tokens, "end"
    And the end of stream "one" has
      | finish_reason | stop |
    And the log places the tasks in the order "one, two"
    And the metrics have
      | tasks_started_total{pool_id="first",replica_id="first-0"} | 1 |
      | llorch_swaps_total{pool_id="first",direction="out"}       | 1 |

  @LO-444 @LO-503
  Scenario: A batch's line makes way for an interactive task of another model
    Given the cards of the reference box
    And the settings
      | swap | {max_wait: 1m, max_wait_behind_batch: 1s, min_turn: 1s, linger: 1s} |
    And a pool "first" of a model of 14 GiB with
      | lifecycle | on_demand |
      | pace      | 3         |
    And a pool "second" of a model of 14 GiB with
      | lifecycle | on_demand |
    And the daemon runs
    When I upload a file "slow" of
      """
      {"custom_id":"c1","method":"POST","url":"/v1/completions","body":{"model":"first","prompt":"Write a haiku about rain containing \"seven\".\n\n","max_tokens":18,"seed":42}}
      """
    And I make a batch "patient" of the file "slow"
    Then the metrics have
      | tasks_started_total{pool_id="first",replica_id="first-0"} | 1 |
    When I submit an interactive task "two" for "second"
    And I follow task "two"
    Then stream "two" is "started", tokens, "end"
    And the metrics have
      | llorch_batch_lines_interrupted_total{pool_id="first"} | 1 |
      | llorch_swaps_total{pool_id="first",direction="out"}   | 1 |
    And the batch "patient" comes to have
      | status                   | completed |
      | request_counts.completed | 1         |

  @LO-503
  Scenario: A pool that nobody needs leaves after its idle time
    Given the cards of the reference box
    And a pool "brief" of a model of 4 GiB with
      | lifecycle | on_demand |
      | idle_ttl  | 1s        |
    And the daemon runs
    When I submit task "one" with
      | model_ref | brief |
    And I follow task "one"
    Then stream "one" is "started", tokens, "end"
    And replica "brief-0" is stopped
    And card 1 has
      | holders | [] |

  @LO-503
  Scenario: A task for a model that cannot be loaded is told why
    Given the cards of the reference box
    And a pool "huge" of a model of 40 GiB with
      | lifecycle | on_demand |
    And the daemon runs
    When I submit task "one" with
      | model_ref | huge |
    And I follow task "one"
    Then stream "one" ends with error POOL_UNAVAILABLE
    And stream "one" is "started", "error"
    And the error of stream "one" has
      | pool_id | huge |
      | message | /the model of pool 'huge' cannot be loaded.*40.3 GiB.*waiting will not help/ |
    And replica "huge-0" is failed
    And replica "huge-0" says "waiting will not help"
    When I submit task "two" with
      | model_ref | huge |
    Then the answer is 503 POOL_UNAVAILABLE

  @LO-503 @ORCH-3040
  Scenario: A task waits while its pool backs off, and ends once the pool is given up
    Given the cards of the reference box
    And a foreign process takes 20 GiB of card 0
    And a pool "broken" of a model of 14 GiB with
      | lifecycle | on_demand |
    And a worker of the model "broken" dies of "llama_model_load: error loading model: check_tensor_dims: wrong shape"
    And the daemon runs
    When I submit task "one" with
      | model_ref | broken |
    And I follow task "one"
    Then replica "broken-0" is backoff
    And task "one" is queued
    When no foreign process takes memory of card 0
    Then stream "one" ends with error POOL_UNAVAILABLE
    And the error of stream "one" has
      | retriable      | true |
      | retry_after_ms | > 0  |
      | message        | /gave up after 5 failures in 10m0s: the engine does not take the model file/ |
    And replica "broken-0" is failed

  @LO-466 @LO-503
  Scenario: A server of any kind makes room for another, and for a model
    Given the cards of the reference box
    And a pool "counts" of servers that take 14 GiB with
      | routes    | [/tokenize] |
      | lifecycle | on_demand   |
    And a pool "prices" of servers that take 14 GiB with
      | routes    | [/slots]  |
      | lifecycle | on_demand |
    And a pool "writes" of a model of 14 GiB with
      | device    | [0]       |
      | lifecycle | on_demand |
    And the daemon runs
    When I post to "/tokenize"
      """
      {"content": "rain"}
      """
    Then the answer is 200
    And replica "counts-0" is ready on card "0"
    When I send GET "/slots"
    Then the answer is 200
    And replica "counts-0" is stopped
    And replica "prices-0" is ready on card "0"
    When I submit an interactive task "one" for "writes"
    And I follow task "one"
    Then stream "one" is "started", tokens, "end"
    And replica "prices-0" is stopped
    When I post to "/tokenize"
      """
      {"content": "rain"}
      """
    Then the answer is 200
    And replica "writes-0" is stopped
    And the metrics have
      | llorch_swaps_total{pool_id="counts",direction="in"}  | 2 |
      | llorch_swaps_total{pool_id="counts",direction="out"} | 1 |
      | llorch_swaps_total{pool_id="prices",direction="out"} | 1 |
      | llorch_swaps_total{pool_id="writes",direction="out"} | 1 |
