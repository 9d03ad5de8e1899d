Feature: A reload that fails changes nothing
  A pool gets another model while it serves. If that fails, the old model serves on, and no task is lost.

  @ORCH-2101 @LO-501 @LO-806
  Scenario: The new model dies as it is loaded beside the old one
    Given the cards of the reference box
    And a pool "writer" of a model of 5 GiB with
      | pace | 20 |
    And a model file "other" of 5 GiB
    And a worker of the model "other" dies of "llama_model_load: error loading model: check_tensor_dims: tensor 'output.weight' has wrong shape"
    And a daemon
    When I submit task "a" with
      | model_ref | writer |
    And I follow task "a"
    And I submit task "b" with
      | model_ref | writer |
    And I follow task "b"
    Then stream "a" has 2 tokens
    When I post to "/v1/pools/writer/reload"
      """
      {"new_model_ref": "file:$DIR/other.gguf"}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "the old one still serves"
    And stream "a" is "started", tokens, "end"
    And stream "b" is "started", tokens, "end"
    And replica "writer-0" is ready on card "1"

  @ORCH-2101 @LO-501 @LO-806
  Scenario: The memory does not hold both, the new model dies, and the old one is back
    Given the cards of the reference box
    And a pool "writer" of a model of 14 GiB with
      | pace | 20 |
    And a model file "other" of 15 GiB
    And a worker of the model "other" dies of "llama_model_load: error loading model: unknown model architecture: 'other'"
    And a daemon
    When I submit task "a" with
      | model_ref | writer |
    And I follow task "a"
    And I submit task "b" with
      | model_ref | writer |
    And I follow task "b"
    Then stream "a" has 2 tokens
    When I post to "/v1/pools/writer/reload"
      """
      {"new_model_ref": "file:$DIR/other.gguf"}
      """
    Then the answer is 400 INVALID_PARAMS
    And its message says "the old one is back"
    And stream "a" is "started", tokens, "end"
    And stream "b" is "started", tokens, "end"
    And replica "writer-0" is ready on card "0"

  @ORCH-2101
  Scenario: The memory does not hold both, and the new model serves the tasks that waited
    Given the cards of the reference box
    And a pool "writer" of a model of 14 GiB with
      | pace | 20 |
    And a model file "other" of 15 GiB
    And a daemon
    When I submit task "a" with
      | model_ref   | writer      |
      | determinism | best_effort |
    And I follow task "a"
    And I submit task "b" with
      | model_ref   | writer      |
      | determinism | best_effort |
    And I follow task "b"
    Then stream "a" has 2 tokens
    When I post to "/v1/pools/writer/reload"
      """
      {"new_model_ref": "file:$DIR/other.gguf"}
      """
    Then the answer is 200
    And stream "a" is "started", tokens, "end"
    And stream "b" is "started", tokens, "end"
    And replica "writer-0" is ready on card "0"
