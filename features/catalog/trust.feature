Feature: A model is used when its bytes are what they should be
  A refused model leaves no files behind.

  @ORCH-3061 @ORCH-3037
  Scenario: A digest that differs is refused before anything uses the file
    Given a source of models over https
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "forged", "ref": "$HTTPS", "digest": "sha256:11d2a5b1c0ffee0011d2a5b1c0ffee0011d2a5b1c0ffee0011d2a5b1c0ffee00", "wait_ms": 20000}
      """
    Then the answer is 403 UNTRUSTED_ARTIFACT
    And its message says "sha256:11d2a5b1c0ffee"
    And nothing of the model "forged" is on the disk
    When I send GET "/v1/catalog/models"
    Then its body lists 0 "models"
    And the metrics have
      | catalog_verifications_total{result="fail",reason="digest_mismatch"} | 1 |

  @ORCH-3037 @ORCH-3061
  Scenario: Strict trust takes signed models alone
    Given a source of models over https
    And models need a signature by one key
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "signed", "ref": "$HTTPS", "wait_ms": 20000}
      """
    Then the answer is 403 UNTRUSTED_ARTIFACT
    And its message says "no signature"
    And the source over https has been asked for the model never
    When I post to "/v1/catalog/models"
      """
      {"id": "signed", "ref": "$HTTPS", "signature": "$OTHER", "wait_ms": 20000}
      """
    Then the answer is 403 UNTRUSTED_ARTIFACT
    And its message says "not among the trusted ones"
    When I post to "/v1/catalog/models"
      """
      {"id": "signed", "ref": "$HTTPS", "signature": "$WRONG", "wait_ms": 20000}
      """
    Then the answer is 403 UNTRUSTED_ARTIFACT
    And its message says "does not fit its bytes"
    And nothing of the model "signed" is on the disk
    When I post to "/v1/catalog/models"
      """
      {"id": "signed", "ref": "$HTTPS", "signature": "$SIGNATURE", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | signature | valid  |
      | state     | Active |
      | warnings  | []     |
    When I run "llama-orch models verify signed"
    Then it exits with 0
    And it says "valid"

  @ORCH-3061
  Scenario: A cached file that was changed is not used
    Given a source of models over hf
    And a pool "resting" of built-in workers with
      | model     | {id: cached, ref: "$HF"} |
      | lifecycle | on_demand |
    And a daemon
    When I post to "/v1/catalog/models"
      """
      {"id": "cached", "ref": "$HF", "wait_ms": 20000}
      """
    Then the answer is 201
    When a byte of the cached model "cached" is another
    And I send POST "/v1/catalog/models/cached/verify"
    Then the answer is 200
    And its body has
      | verified | false |
    When I send GET "/v1/catalog/models/cached"
    Then the answer is 200
    And its body has
      | verified     | false              |
      | problem.code | UNTRUSTED_ARTIFACT |
    When I submit task "hopeful" with
      | model_ref | cached |
    And I follow task "hopeful"
    Then the log has a line "replica is not ready" with
      | reason | refused              |
      | error  | /UNTRUSTED_ARTIFACT/ |
    And stream "hopeful" ends with error POOL_UNAVAILABLE
    And the error of stream "hopeful" has
      | message | /UNTRUSTED_ARTIFACT/ |

  @ORCH-3090 @ORCH-3091
  Scenario Outline: What cannot be a model is refused by name
    Given the shared daemon
    When I post to "/v1/catalog/models"
      """
      <body>
      """
    Then the answer is <answer>
    And its message says "<says>"

    Examples:
      | body | answer | says |
      | {"ref": "hf:org/../../etc/passwd", "id": "x"}                | 400 INVALID_PARAMS  | `ref`    |
      | {"ref": "https://models.example/../m.gguf", "id": "x"}       | 400 INVALID_PARAMS  | `ref`    |
      | {"ref": "https://models.example/%2e%2e/m.gguf", "id": "x"}   | 400 INVALID_PARAMS  | `ref`    |
      | {"ref": "ftp://models.example/m.gguf", "id": "x"}            | 400 INVALID_PARAMS  | scheme   |
      | {"ref": "https://user:pw@models.example/m.gguf", "id": "x"}  | 400 INVALID_PARAMS  | `ref`    |
      | {"ref": "file:$ROOT/models/haiku/none.gguf", "id": "absent", "wait_ms": 9000} | 404 MODEL_NOT_FOUND | file |
      | {"ref": "file:$ROOT/models/haiku/README.md", "id": "readme", "wait_ms": 9000} | 400 INVALID_PARAMS  | GGUF     |
      | {"ref": "file:$MODEL", "id": "../x"}                         | 400 INVALID_PARAMS  | id       |
      | {"ref": "file:$MODEL", "id": "x", "digest": "sha256:12"}     | 400 INVALID_PARAMS  | digest   |
      | {"ref": "file:$MODEL", "id": "x", "signature": "bm9uZQ=="}   | 400 INVALID_PARAMS  | minisign |
      | {"id": "x"}                                                  | 400 INVALID_PARAMS  | ref      |

  @ORCH-3060
  Scenario Outline: A model that is not there
    Given the shared daemon
    When I send <method> "<path>"
    Then the answer is <answer>

    Examples:
      | method | path                                    | answer             |
      | GET    | /v1/catalog/models/no-such-model        | 404 NOT_FOUND      |
      | DELETE | /v1/catalog/models/no-such-model        | 404 NOT_FOUND      |
      | POST   | /v1/catalog/models/no-such-model/verify | 404 NOT_FOUND      |
      | GET    | /v1/catalog/models/..%2f..%2fetc        | 400 INVALID_PARAMS |
      | GET    | /v1/catalog/models?state=Lost           | 400 INVALID_PARAMS |

  @OC-CAT-56
  Scenario: The engine catalog is empty where nothing was prepared
    Given a daemon
    When I send GET "/v1/catalog/engines"
    Then the answer is 200
    And its body has
      | engines | [] |
