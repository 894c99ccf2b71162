import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Date;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.zip.ZipEntry;
import java.util.zip.ZipInputStream;
import javax.xml.crypto.Data;
import javax.xml.crypto.OctetStreamData;
import javax.xml.crypto.URIDereferencer;
import javax.xml.crypto.dsig.XMLSignature;
import javax.xml.crypto.dsig.XMLSignatureFactory;
import javax.xml.crypto.dsig.dom.DOMValidateContext;
import javax.xml.parsers.DocumentBuilderFactory;
import org.bouncycastle.cert.X509CertificateHolder;
import org.bouncycastle.cert.ocsp.BasicOCSPResp;
import org.bouncycastle.cert.ocsp.CertificateStatus;
import org.bouncycastle.cert.ocsp.OCSPResp;
import org.bouncycastle.cms.SignerInformationVerifier;
import org.bouncycastle.cms.jcajce.JcaSimpleSignerInfoVerifierBuilder;
import org.bouncycastle.operator.jcajce.JcaContentVerifierProviderBuilder;
import org.bouncycastle.operator.jcajce.JcaDigestCalculatorProviderBuilder;
import org.bouncycastle.tsp.TSPUtil;
import org.bouncycastle.tsp.TimeStampToken;
import org.bouncycastle.tsp.ers.ERSByteData;
import org.bouncycastle.tsp.ers.ERSData;
import org.bouncycastle.tsp.ers.ERSDataGroup;
import org.bouncycastle.tsp.ers.ERSEvidenceRecord;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/**
 * Checks a container with nothing of Solmu: the JDK's XML signatures, and BouncyCastle for OCSP, RFC 3161 and RFC 4998.
 *
 * <p>Arguments: container, certificate of the time-stamping authority, certificate of the responder (DER). Prints what
 * was found good, a word each.
 */
public final class CheckContainer {
    private static final String XADES = "http://uri.etsi.org/01903/v1.3.2#";

    public static void main(String[] given) throws Exception {
        Map<String, byte[]> files = unpack(given[0]);
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setNamespaceAware(true);
        Document document = factory.newDocumentBuilder()
            .parse(new ByteArrayInputStream(files.get("META-INF/signatures0.xml")));
        signature(document, files);
        status(document, certificate(given[2]));
        SignerInformationVerifier authority =
            new JcaSimpleSignerInfoVerifierBuilder().build(certificate(given[1]));
        timeStamp(document, authority);
        record(files, authority);
    }

    private static Map<String, byte[]> unpack(String path) throws Exception {
        Map<String, byte[]> files = new HashMap<>();
        try (ZipInputStream zip = new ZipInputStream(new FileInputStream(path))) {
            for (ZipEntry entry = zip.getNextEntry(); entry != null; entry = zip.getNextEntry()) {
                files.put(entry.getName(), zip.readAllBytes());
            }
        }
        return files;
    }

    private static void signature(Document document, Map<String, byte[]> files) throws Exception {
        Element element = (Element) document.getElementsByTagNameNS(XMLSignature.XMLNS, "Signature").item(0);
        byte[] der = bytes(document, XMLSignature.XMLNS, "X509Certificate");
        X509Certificate signer = (X509Certificate) CertificateFactory.getInstance("X.509")
            .generateCertificate(new ByteArrayInputStream(der));
        DOMValidateContext context = new DOMValidateContext(signer.getPublicKey(), element);
        Element properties = (Element) document.getElementsByTagNameNS(XADES, "SignedProperties").item(0);
        context.setIdAttributeNS(properties, null, "Id");
        XMLSignatureFactory signatures = XMLSignatureFactory.getInstance("DOM");
        URIDereferencer usual = signatures.getURIDereferencer();
        context.setURIDereferencer((reference, around) -> {
            byte[] file = files.get(reference.getURI());
            Data inZip = file == null ? null : new OctetStreamData(new ByteArrayInputStream(file));
            return inZip == null ? usual.dereference(reference, around) : inZip;
        });
        if (signatures.unmarshalXMLSignature(context).validate(context)) {
            System.out.println("signature");
        }
    }

    private static void status(Document document, X509Certificate responder) throws Exception {
        byte[] answer = bytes(document, XADES, "EncapsulatedOCSPValue");
        if (answer == null) {
            return;
        }
        BasicOCSPResp basic = (BasicOCSPResp) new OCSPResp(answer).getResponseObject();
        boolean signed = basic.isSignatureValid(new JcaContentVerifierProviderBuilder().build(responder));
        if (signed && basic.getResponses()[0].getCertStatus() == CertificateStatus.GOOD) {
            System.out.println("status");
        }
    }

    private static void timeStamp(Document document, SignerInformationVerifier authority) throws Exception {
        byte[] token = bytes(document, XADES, "EncapsulatedTimeStamp");
        if (token == null) {
            return;
        }
        TimeStampToken stamp = new TimeStampToken(new org.bouncycastle.cms.CMSSignedData(token));
        stamp.validate(authority);
        String value = document.getElementsByTagNameNS(XMLSignature.XMLNS, "SignatureValue").item(0).getTextContent();
        String canonical = "<ds:SignatureValue xmlns:ds=\"" + XMLSignature.XMLNS + "\" Id=\"S0-sv\">" + value
            + "</ds:SignatureValue>";
        byte[] digest = MessageDigest.getInstance("SHA-256").digest(canonical.getBytes("US-ASCII"));
        if (MessageDigest.isEqual(digest, stamp.getTimeStampInfo().getMessageImprintDigest())) {
            System.out.println("time-stamp");
        }
    }

    private static void record(Map<String, byte[]> files, SignerInformationVerifier authority) throws Exception {
        byte[] found = files.get("META-INF/evidencerecord001.ers");
        if (found == null) {
            return;
        }
        ERSEvidenceRecord record = new ERSEvidenceRecord(found, new JcaDigestCalculatorProviderBuilder().build());
        List<ERSData> group = new ArrayList<>();
        for (String name : List.of("statement.txt", "batch.txt", "META-INF/signatures0.xml")) {
            if (files.containsKey(name)) {
                group.add(new ERSByteData(files.get(name)));
            }
        }
        record.validatePresent(new ERSDataGroup(group), new Date());
        record.validate(authority);
        System.out.println("evidence-record");
    }

    private static byte[] bytes(Document document, String namespace, String name) {
        NodeList found = document.getElementsByTagNameNS(namespace, name);
        return found.getLength() == 0 ? null
            : java.util.Base64.getDecoder().decode(found.item(0).getTextContent());
    }

    private static X509Certificate certificate(String path) throws Exception {
        return (X509Certificate) CertificateFactory.getInstance("X.509")
            .generateCertificate(new ByteArrayInputStream(Files.readAllBytes(Path.of(path))));
    }
}
