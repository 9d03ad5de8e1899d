Feature: A task finds its model not loaded
  Some things about the task can only be known once the model is loaded. They are found out then.

  @LO-503
  Scenario: Messages are templated and prompts counted once the model is there
    Given a pool "resting" of built-in workers with
      | lifecycle | on_demand |
    And a daemon
    When I submit task "talk" with
      | messages   | [{"role": "user", "content": "Write a haiku about rain."}] |
      | max_tokens | 8 |
    And I submit task "too-long" with
      | prompt | rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain rain |
    Then the answer is 202
    When I follow task "talk"
    And I follow task "too-long"
    Then stream "talk" is "started", tokens, "end"
    And stream "too-long" ends with error INVALID_PARAMS
    And stream "too-long" is "started", "error"
    And the error of stream "too-long" has
      | retriable | false                                  |
      | message   | /the context holds 256.*shorten it by/ |
    And task "too-long" is failed

  @LO-503 @LO-202
  Scenario: A kill while the model is being loaded loses no task
    Given the cards of the reference box
    And a pool "heavy" of a model of 5 GiB with
      | lifecycle | on_demand |
    And a worker of the model "heavy" has to wait as it loads
    And the daemon runs
    When I submit task "first" with
      | model_ref | heavy |
    And I follow task "first" as "before"
    And I submit task "second" with
      | model_ref | heavy |
    Then a metrics frame of stream "before" has
      | phase | loading |
    When I kill the daemon
    Then stream "before" breaks off
    When a worker of the model "heavy" may load
    And I start the daemon again
    And I follow task "first"
    And I follow task "second"
    Then streams "first, second" are all "started", tokens, "end"

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
