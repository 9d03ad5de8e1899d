Feature: Models are fetched by their refs
  Whatever the scheme, a model is fetched once and checked, and its metadata is read.

  @ORCH-3060 @ORCH-3090
  Scenario: A model of each scheme is added by its ref and read
    Given a source of models over https
    And a source of models over hf
    And a source of models over s3
    And a source of models over oci
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "web", "ref": "$HTTPS", "digest": "$DIGEST", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | state                 | Active  |
      | digest                | $DIGEST |
      | verified              | true    |
      | signature             | missing |
      | metadata.architecture | llama   |
      | metadata.quantisation | F16     |
      | metadata.ctx_max      | 256     |
      | warnings.0            | it has no signature |
    And its headers have
      | Location | /v1/catalog/models/web |
    When I post to "/v1/catalog/models"
      """
      {"id": "hub", "ref": "$HF", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | digest | $DIGEST |
    When I post to "/v1/catalog/models"
      """
      {"id": "bucket", "ref": "$S3", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | digest | $DIGEST |
    When I post to "/v1/catalog/models"
      """
      {"id": "image", "ref": "$OCI", "wait_ms": 20000}
      """
    Then the answer is 201
    And its body has
      | digest | $DIGEST |
    When I post to "/v1/catalog/models"
      """
      {"ref": "file:$MODEL", "wait_ms": 20000, "sbom": "https://models.example/haiku.cdx.json"}
      """
    Then the answer is 201
    And its body has
      | id     | haiku   |
      | digest | $DIGEST |
      | sbom   | https://models.example/haiku.cdx.json |
    When I send GET "/v1/catalog/models?state=Active"
    Then the answer is 200
    And its body lists 5 "models"
    When I run "llama-orch models list"
    Then it exits with 0
    And it says "bucket"
    When I send DELETE "/v1/catalog/models/web"
    Then the answer is 204
    And nothing of the model "web" is on the disk
    When I send GET "/v1/catalog/models/web"
    Then the answer is 404 NOT_FOUND
    And the files of the model "hub" are on the disk
    And the log does not hold "SECRET"

  @ORCH-3091
  Scenario Outline: A fetch that was killed half way with its daemon asks for the rest alone
    Given a source of models over <scheme>
    And the source over <scheme> holds its next answer half way
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "big", "ref": "<ref>"}
      """
    Then the answer is 201
    And its body has
      | state | Fetching |
    And "/v1/catalog/models/big" has come to
      | progress.done_bytes | >= 1000000 |
    When I kill the daemon
    And I start the daemon again
    Then "/v1/catalog/models/big" has come to
      | state    | Active  |
      | verified | true    |
      | digest   | $DIGEST |
    And the source over <scheme> was asked for the second half alone, and sent every byte once

    Examples:
      | scheme | ref    |
      | https  | $HTTPS |
      | hf     | $HF    |
      | s3     | $S3    |
      | oci    | $OCI   |

  @ORCH-3091
  Scenario: Who asks for the same model at the same time shares one download
    Given a source of models over hf
    And the source over hf holds its next answer half way
    And a daemon in front of a fake engine
    When I post to "/v1/catalog/models"
      """
      {"id": "shared", "ref": "$HF"}
      """
    Then the answer is 201
    And "/v1/catalog/models/shared" has come to
      | progress.done_bytes  | >= 1000000 |
      | progress.total_bytes | >= 2000000 |
    When meanwhile I post to "/v1/catalog/models"
      """
      {"id": "shared", "ref": "$HF", "wait_ms": 20000}
      """
    And I post to "/v1/catalog/models"
      """
      {"ref": "$HF", "id": "another"}
      """
    Then the answer is 409 CONFLICT
    And its message says "as model shared"
    When the source over hf goes on
    Then the answer to that is 201
    And its body has
      | state | Active |
    And the source over hf has been asked for the model once

  @ORCH-3091
  Scenario: A connection that breaks is taken up where it broke
    Given a source of models over https
    And the source over https drops its next answer half way
    And a daemon in front of a fake engine
    When I run "llama-orch models add $HTTPS --id taken-up --wait"
    Then it exits with 0
    And it says "Active"
    And the source over https was asked for the second half alone, and sent every byte once

  @ORCH-3060 @ORCH-3090 @LO-503
  Scenario: A pool's model is fetched when the first task needs it
    Given a source of models over hf
    And the source over hf holds its next answer half way
    And a pool "resting" of built-in workers with
      | model     | {id: fetched, ref: "$HF", digest: "$DIGEST"} |
      | lifecycle | on_demand |
    And a daemon
    Then the source over hf has been asked for the model never
    When I submit task "first" with
      | model_ref  | fetched |
      | max_tokens | 8       |
    And I follow task "first"
    Then a metrics frame of stream "first" has
      | phase         | loading |
      | load_progress | > 0     |
    When I send DELETE "/v1/catalog/models/m"
    Then the answer is 409 CONFLICT
    When the source over hf goes on
    Then stream "first" is "started", tokens, "end"
    And "/v1/catalog/models/m" has come to
      | state | Active |
    And the source over hf has been asked for the model once
