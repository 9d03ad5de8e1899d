Feature: Engines of other kinds
  TGI and Triton serve behind the same line as llama.cpp. Where an address has another engine, the pool says which, and what to write. vLLM
  and TGI are also started by the daemon, on the cards that they were granted. Conformance servers play the engines, and a stand-in plays their programs.

  @ORCH-3056 @LO-410
  Scenario: A pool of TGI answers a prompt and a chat
    Given a pool "tgi" of engine "tgi" in front of a server of TGI
    And a daemon
    When I submit task "verse" with
      | model_ref  | tgi |
      | max_tokens | 8   |
    And I follow task "verse"
    Then stream "verse" is "started", tokens, "end"
    And the end of stream "verse" has
      | finish_reason       | length      |
      | receipt.determinism | best_effort |
    When I submit the chat "talk"
      """
      {"model_ref": "tgi", "max_tokens": 6, "messages": [{"role": "user", "content": "Say something."}]}
      """
    And I follow task "talk"
    Then stream "talk" is "started", tokens, "end"
    And the end of stream "talk" has
      | finish_reason | length |
    When I submit the chat "grammar"
      """
      {"model_ref": "tgi", "format": {"grammar": "root ::= \"a\""}, "messages": [{"role": "user", "content": "Say something."}]}
      """
    Then the answer is 400 INVALID_PARAMS

  @ORCH-3057
  Scenario: A pool of Triton answers a prompt, and takes no messages
    Given a pool "triton" of engine "triton" in front of a server of Triton
    And a daemon
    When I submit task "verse" with
      | model_ref  | triton |
      | max_tokens | 8      |
    And I follow task "verse"
    Then stream "verse" is "started", tokens, "end"
    And the end of stream "verse" has
      | tokens_in  | 0 |
      | tokens_out | 8 |
    When I submit the chat "talk"
      """
      {"model_ref": "triton", "messages": [{"role": "user", "content": "Say something."}]}
      """
    Then the answer is 400 INVALID_PARAMS

  @LO-460
  Scenario: A pool whose engine is another says which, and what to write
    Given a pool "a" of engine "tgi" in front of a server of Ollama
    And a pool "b" of engine "triton" in front of a server of TGI
    And the daemon runs
    Then replica "a-0" says "it looks like Ollama: write `engine: openai`"
    And replica "b-0" says "it looks like TGI: write `engine: tgi`"

  @LO-461 @LO-463
  Scenario Outline: The daemon starts <engine>, shows how far its load is, and starts it again when it is killed
    Given the cards of the reference box
    And a pool "large" that starts engine "<engine>" with
      | device | [0]  |
      | ctx    | 2048 |
      | slots  | 4    |
    And the engine of pool "large" keeps loading
    And the daemon runs
    And the engine of pool "large" says "Loading safetensors checkpoint shards:  40% Completed | 2/5"
    Then replica "large-0" is at "reads the weights: 40 %"
    When the engine of pool "large" has loaded
    Then replica "large-0" is ready on card "0"
    And the engine of pool "large" was told "<told>"
    And the command line of the engine of pool "large" holds no key
    When I submit the chat "talk"
      """
      {"model_ref": "large", "max_tokens": 6, "messages": [{"role": "user", "content": "Say something."}]}
      """
    And I follow task "talk"
    Then stream "talk" is "started", tokens, "end"
    When I kill the worker of "large-0"
    Then the replica "large-0" is restarted and ready again

    Examples:
      | engine | told                                                |
      | tgi    | --max-total-tokens 2048 --cuda-memory-fraction 0.    |
      | vllm   | --max-model-len 2048 --gpu-memory-utilization 0.     |

  @LO-461 @ORCH-2102
  Scenario: An engine that is started here gets a model from another folder, and none that would have to be fetched
    Given the cards of the reference box
    And a pool "large" that starts engine "vllm" with
      | device | [0]  |
      | ctx    | 2048 |
    And a model of the hub in folder "other"
    And the daemon runs
    Then replica "large-0" is ready on card "0"
    When I post to "/v1/pools/large/reload"
      """
      {"new_model_ref": "hf:org/llama"}
      """
    Then the answer is 404 MODEL_NOT_FOUND
    And its message says "hf download org/llama --local-dir FOLDER"
    When I post to "/v1/pools/large/reload"
      """
      {"new_model_ref": "file:$DIR/none"}
      """
    Then the answer is 404 MODEL_NOT_FOUND
    And its message says "the model's folder cannot be read"
    When I post to "/v1/pools/large/reload"
      """
      {"new_model_ref": "file:/etc"}
      """
    Then the answer is 403 POLICY_DENIED
    When I post to "/v1/pools/large/reload"
      """
      {"new_model_ref": "file:$DIR/other"}
      """
    Then the answer is 200
    And the engine of pool "other" was told "--max-model-len 2048"
    When I submit the chat "talk"
      """
      {"model_ref": "large", "max_tokens": 6, "messages": [{"role": "user", "content": "Say something."}]}
      """
    And I follow task "talk"
    Then stream "talk" is "started", tokens, "end"

  @LO-462
  Scenario: What TGI died of is told apart
    Given the cards of the reference box
    And a pool "kv" that starts engine "tgi" with
      | device | [0] |
    And a worker of the hub's model "kv" dies of "ValueError: No available memory for the cache blocks."
    And the daemon runs
    Then replica "kv-0" says "the KV of its context does not"
    And the worker of "kv-0" was restarted for "no_kv_room"
